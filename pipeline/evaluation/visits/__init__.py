"""Figures of visits: what an evaluation of rows cannot see of people who are sequences of dated visits (spec 18 d).

Their metrics are listed with the families that they belong to: `ehr.visit.*` in fidelity, `util.next_visit` in utility,
`priv.mia.visit_auc` in privacy. A cohort without events has none of them.
"""
