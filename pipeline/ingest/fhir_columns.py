"""What is read of each FHIR R4 resource type, and how it becomes the rows of a raw table.

One description per type serves twice: `duckdb_columns` makes the explicit columns of DuckDB's `read_json` from it, and
`fhir_judge` walks the same tree to say of a single record why it does not fit. Leaves are TEXT (any scalar), TOKEN
(text, but no object or list), MOMENT (date or time, partial ones allowed), NUMBER and FLAG; the last two are read as
raw JSON because DuckDB turns "nan" into a number and "yes" into true without a word. The SELECTs are strict: on any
record that does not fit they raise, so a file that comes through is whole. Names, addresses, telecoms and identifiers
of patients are never read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

TEXT: Final = "text"
TOKEN: Final = "token"
MOMENT: Final = "moment"
NUMBER: Final = "number"
FLAG: Final = "flag"

Shape = str | list[Any] | dict[str, Any]
"""A leaf, a list of one shape, or an object with a shape a field."""

CODING: Final[dict[str, Any]] = {"system": TEXT, "code": TEXT, "display": TEXT}
CONCEPT: Final[dict[str, Any]] = {"coding": [CODING], "text": TEXT}
REFERENCE: Final[dict[str, Any]] = {"reference": TEXT}
QUANTITY: Final[dict[str, Any]] = {"value": NUMBER, "comparator": TEXT, "unit": TEXT, "code": TEXT}
PERIOD: Final[dict[str, Any]] = {"start": MOMENT, "end": MOMENT}
BEGIN: Final[dict[str, Any]] = {"start": MOMENT}
COMMON: Final[dict[str, Any]] = {"resourceType": TOKEN, "id": TOKEN, "meta": {"lastUpdated": MOMENT}}
EXTENSION: Final[dict[str, Any]] = {
    "url": TEXT,
    "valueCode": TEXT,
    "extension": [{"url": TEXT, "valueString": TEXT, "valueCoding": {"code": TEXT, "display": TEXT}}],
}
VALUES: Final[dict[str, Any]] = {
    "valueQuantity": QUANTITY,
    "valueCodeableConcept": CONCEPT,
    "valueString": TEXT,
    "valueBoolean": FLAG,
    "valueInteger": NUMBER,
    "valueTime": TEXT,
    "valueDateTime": MOMENT,
    "valuePeriod": BEGIN,
    "valueRange": TEXT,
    "valueRatio": TEXT,
    "valueSampledData": TEXT,
    "dataAbsentReason": CONCEPT,
}

# RE2 and Python read these alike; years start at 1000 so that no calendar has to be guessed.
DAY_PATTERN: Final = r"[1-9]\d\d\d-\d\d-\d\d"
MONTH_PATTERN: Final = r"[1-9]\d\d\d-\d\d"
YEAR_PATTERN: Final = r"[1-9]\d\d\d"
TIME_PATTERN: Final = DAY_PATTERN + r"T([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d+)?)?(Z|[+-](0\d|1[0-4]):[0-5]\d)?"

MACROS: Final = (
    # The key of a record; raises where the type is another one or the id is missing.
    """_key(want, rt, id) AS CASE WHEN rt = want AND id <> '' AND id[1] NOT IN ('{', '[') THEN want || '/' || id
       ELSE error('no key') END""",
    # Text that must not be an object or a list (DuckDB would hand over its JSON).
    "_token(t) AS CASE WHEN t[1] IN ('{', '[') THEN error('wrong_type') ELSE t END",
    # FHIR date or time to naive UTC; a partial one stands at the start of its period. A plain TIMESTAMP cast would
    # drop the offset silently, hence TIMESTAMPTZ (the session's zone is UTC, so naive times are UTC).
    f"""_moment(t) AS CASE WHEN t IS NULL THEN NULL
       WHEN regexp_full_match(t, '{TIME_PATTERN}') THEN make_timestamp(epoch_us(CAST(t AS TIMESTAMPTZ)))
       WHEN regexp_full_match(t, '{DAY_PATTERN}') THEN CAST(t AS TIMESTAMP)
       WHEN regexp_full_match(t, '{MONTH_PATTERN}') THEN CAST(t || '-01' AS TIMESTAMP)
       WHEN regexp_full_match(t, '{YEAR_PATTERN}') THEN CAST(t || '-01-01' AS TIMESTAMP)
       ELSE error('invalid_date') END""",
    "_precision(t) AS CASE strlen(t) WHEN 4 THEN 'year' WHEN 7 THEN 'month' WHEN 10 THEN 'day' "
    "ELSE CASE WHEN t IS NULL THEN NULL ELSE 'time' END END",
    # Raw JSON to a finite number; strings, true, NaN and 1e999 raise.
    """_number(j) AS CASE WHEN j IS NULL THEN NULL WHEN isfinite(TRY_CAST(j::VARCHAR AS DOUBLE))
       THEN TRY_CAST(j::VARCHAR AS DOUBLE) ELSE error('value_not_a_number') END""",
    """_flag(j) AS CASE WHEN j IS NULL THEN NULL WHEN j::VARCHAR = 'true' THEN TRUE WHEN j::VARCHAR = 'false'
       THEN FALSE ELSE error('wrong_type') END""",
    # Any way to write a reference to the one key 'Type/id'; conditional and contained references stay NULL.
    """_resolve(r, want) AS CASE WHEN r IS NULL THEN NULL
       WHEN starts_with(r, want || '/') AND NOT contains(r, '/_history') AND NOT contains(r, '?') THEN r
       WHEN starts_with(r, 'urn:uuid:') THEN want || '/' || substr(r, 10)
       WHEN starts_with(r, 'urn:oid:') THEN want || '/' || substr(r, 9)
       WHEN contains(r, '?') OR starts_with(r, '#') THEN NULL
       ELSE nullif(regexp_extract(r, '(?:^|/)(' || want || '/[A-Za-z0-9.-]+)(?:/_history/[^/]*)?$', 1), '') END""",
    """_category(c) AS coalesce(c.coding[1].code, c.text)""",
    """_us_core(extensions, name) AS list_filter(extensions, lambda e:
       e.url = 'http://hl7.org/fhir/us/core/StructureDefinition/us-core-' || name)[1]""",
    """_omb(e) AS coalesce(list_filter(e.extension, lambda x: x.url = 'ombCategory')[1].valueCoding.display,
       list_filter(e.extension, lambda x: x.url = 'text')[1].valueString,
       list_filter(e.extension, lambda x: x.url = 'ombCategory')[1].valueCoding.code)""",
)


@dataclass(frozen=True)
class ResourceType:
    """One modelled resource type.

    Attributes:
        name: FHIR name, as in `resourceType`.
        table: Name of its raw table.
        shape: The fields that are read.
        select: SELECT over `{source}` (the explicit columns) giving the table; raises where a record does not fit.
        references: Reference fields that bundles may write as `urn:uuid:`.
    """

    name: str
    table: str
    shape: dict[str, Any]
    select: str
    references: tuple[str, ...]


def duckdb_type(shape: Shape) -> str:
    """The DuckDB column type of a shape."""
    if isinstance(shape, dict):
        return "STRUCT(" + ", ".join(f'"{name}" {duckdb_type(part)}' for name, part in shape.items()) + ")"
    if isinstance(shape, list):
        return duckdb_type(shape[0]) + "[]"
    return "JSON" if shape in (NUMBER, FLAG) else "VARCHAR"


def duckdb_columns(shape: Mapping[str, Any]) -> str:
    """The `columns=` argument of `read_json` for an object of this shape."""
    return "{" + ", ".join(f"\"{name}\": '{duckdb_type(part)}'" for name, part in shape.items()) + "}"


def _moment(name: str, expression: str | None = None) -> str:
    """Three output columns of a date or time: the moment, its original text and its precision."""
    raw = expression or f"{name}_raw"
    return f'_moment({raw}) AS "{name}", {raw} AS {name}_text, _precision({raw}) AS {name}_precision'


def _coded(expression: str, prefix: str = "") -> str:
    """The first coding of a concept; its text stands in for a missing display."""
    return (
        f"{expression}.coding[1].system AS {prefix}code_system, {expression}.coding[1].code AS {prefix}code, "
        f"coalesce({expression}.coding[1].display, {expression}.text) AS {prefix}display"
    )


def _head(name: str, subject: str = "subject", encounter: str | None = "encounter") -> str:
    """The columns every table starts with. `unresolved` holds a reference that leads to no key, else NULL."""
    patient = f"_resolve({subject}.reference, 'Patient')"
    stay = f"_resolve({encounter}.reference, 'Encounter')" if encounter else "'Encounter/' || id"
    lost = f"CASE WHEN {patient} IS NULL AND {subject}.reference IS NOT NULL THEN {subject}.reference"
    if encounter:
        lost += f" WHEN {stay} IS NULL AND {encounter}.reference IS NOT NULL THEN {encounter}.reference"
    return (
        f"_key('{name}', resourceType, id) AS key, id, {patient} AS patient, {stay} AS encounter, "
        f"_moment(meta.lastUpdated) AS last_updated, {lost} END AS unresolved"
    )


_PATIENT = f"""
SELECT _key('Patient', resourceType, id) AS key, id, 'Patient/' || id AS patient,
    CAST(NULL AS VARCHAR) AS encounter, _moment(meta.lastUpdated) AS last_updated,
    CAST(_moment(birthDate) AS DATE) AS birth_date, birthDate AS birth_date_text,
    _precision(birthDate) AS birth_date_precision, _token(gender) AS gender,
    _omb(_us_core(extension, 'race')) AS race, _omb(_us_core(extension, 'ethnicity')) AS ethnicity,
    _us_core(extension, 'birthsex').valueCode AS birth_sex,
    coalesce(maritalStatus.coding[1].code, maritalStatus.text) AS marital_status,
    coalesce(_flag(deceasedBoolean), deceasedDateTime IS NOT NULL) AS deceased,
    {_moment("deceased_at", "deceasedDateTime")},
    address[1].postalCode AS postal_code, address[1].state AS state, address[1].country AS country,
    coalesce(communication[1].language.coding[1].code, communication[1].language.text) AS language
FROM {{source}}"""

_ENCOUNTER = f"""
SELECT {_head("Encounter", encounter=None)}, _token(status) AS status, class.code AS class,
    type[1].coding[1].system AS type_system, type[1].coding[1].code AS type_code,
    coalesce(type[1].coding[1].display, type[1].text) AS type_display,
    {_moment("start", "period.start")}, {_moment("end", "period.end")},
    reasonCode[1].coding[1].system AS reason_system, reasonCode[1].coding[1].code AS reason_code,
    coalesce(reasonCode[1].coding[1].display, reasonCode[1].text) AS reason_display,
    _category(hospitalization.admitSource) AS admit_source,
    _category(hospitalization.dischargeDisposition) AS discharge_disposition
FROM {{source}}"""

_CONDITION = f"""
SELECT {_head("Condition")}, _category(clinicalStatus) AS clinical_status,
    _category(verificationStatus) AS verification_status, _category(category[1]) AS category, {_coded("code")},
    {_moment("onset")}, {_moment("abatement")}, {_moment("recorded", "recordedDate")}
FROM (SELECT *, coalesce(onsetDateTime, onsetPeriod.start) AS onset_raw,
    coalesce(abatementDateTime, abatementPeriod.start) AS abatement_raw FROM {{source}})"""

# Component 0 is the observation itself (its value may be missing: a panel); 1.. are its components.
_OBSERVATION = f"""
SELECT {_head("Observation")}, _token(status) AS status, _category(category[1]) AS category,
    {_coded("code_raw")}, CAST(n AS INTEGER) AS component,
    CASE WHEN n > 0 THEN code.coding[1].system END AS parent_code_system,
    CASE WHEN n > 0 THEN code.coding[1].code END AS parent_code,
    {_moment("effective")}, _moment(issued) AS issued,
    CASE WHEN v.valueQuantity.value IS NOT NULL THEN 'quantity' WHEN v.valueCodeableConcept IS NOT NULL THEN 'concept'
         WHEN v.valueString IS NOT NULL THEN 'string' WHEN v.valueBoolean IS NOT NULL THEN 'boolean'
         WHEN v.valueInteger IS NOT NULL THEN 'integer' WHEN v.valueDateTime IS NOT NULL THEN 'datetime'
         WHEN v.valueTime IS NOT NULL THEN 'time' WHEN v.valuePeriod IS NOT NULL THEN 'period'
         WHEN v.valueRange IS NOT NULL THEN 'range' WHEN v.valueRatio IS NOT NULL THEN 'ratio'
         WHEN v.valueSampledData IS NOT NULL THEN 'sampled_data' END AS value_type,
    coalesce(_number(v.valueQuantity.value), _number(v.valueInteger)) AS value_number,
    v.valueQuantity.comparator AS value_comparator,
    coalesce(v.valueQuantity.unit, v.valueQuantity.code) AS value_unit,
    coalesce(v.valueString, v.valueCodeableConcept.coding[1].display, v.valueCodeableConcept.text, v.valueTime)
        AS value_text,
    v.valueCodeableConcept.coding[1].code AS value_code,
    v.valueCodeableConcept.coding[1].system AS value_code_system, _flag(v.valueBoolean) AS value_boolean,
    _moment(coalesce(v.valueDateTime, v.valuePeriod.start)) AS value_datetime,
    _category(v.dataAbsentReason) AS data_absent_reason
FROM (SELECT *, CASE WHEN n = 0 THEN code ELSE component[n].code END AS code_raw, {{values}} AS v,
        coalesce(effectiveDateTime, effectivePeriod.start, effectiveInstant) AS effective_raw
    FROM (SELECT *, unnest(range(0, 1 + coalesce(len(component), 0))) AS n FROM {{source}}))"""

_PROCEDURE = f"""
SELECT {_head("Procedure")}, _token(status) AS status, {_coded("code")},
    {_moment("performed_start", "coalesce(performedDateTime, performedPeriod.start)")},
    {_moment("performed_end", "performedPeriod.end")}
FROM {{source}}"""

_MEDICATION_REQUEST = f"""
SELECT {_head("MedicationRequest")}, _token(status) AS status, _token(intent) AS intent,
    {_coded("coalesce(medicationCodeableConcept, inside.code)")},
    _resolve(medicationReference.reference, 'Medication') AS medication, {_moment("authored", "authoredOn")}
FROM (SELECT *, CASE WHEN starts_with(medicationReference.reference, '#') THEN
        list_filter(contained, lambda c: c.id = substr(medicationReference.reference, 2))[1] END AS inside
    FROM {{source}})"""

_IMMUNIZATION = f"""
SELECT {_head("Immunization", subject="patient")}, _token(status) AS status, {_coded("vaccineCode")},
    {_moment("occurrence", "occurrenceDateTime")}
FROM {{source}}"""

_ALLERGY = f"""
SELECT {_head("AllergyIntolerance", subject="patient")}, _category(clinicalStatus) AS clinical_status,
    _token(type) AS type, _token(category[1]) AS category, _token(criticality) AS criticality, {_coded("code")},
    {_moment("recorded", "recordedDate")}
FROM {{source}}"""

_REPORT = f"""
SELECT {_head("DiagnosticReport")}, _token(status) AS status, _category(category[1]) AS category, {_coded("code")},
    {_moment("effective", "coalesce(effectiveDateTime, effectivePeriod.start)")}, {_moment("issued")},
    CAST(coalesce(len(result), 0) AS INTEGER) AS result_count
FROM (SELECT *, issued AS issued_raw FROM {{source}})"""

_MEDICATION = f"""
SELECT _key('Medication', resourceType, id) AS key, id, _moment(meta.lastUpdated) AS last_updated,
    _token(status) AS status, {_coded("code")}
FROM {{source}}"""


def _values() -> str:
    """The value fields as one struct: the observation's own where n is 0, else those of component n."""
    fields = ", ".join(f'"{f}" := {{of}}."{f}"' for f in VALUES)
    own = ", ".join(f'"{f}" := "{f}"' for f in VALUES)
    return f"CASE WHEN n = 0 THEN struct_pack({own}) ELSE struct_pack({fields.replace('{of}', 'component[n]')}) END"


_SUBJECT: Final[dict[str, Any]] = {**COMMON, "subject": REFERENCE, "encounter": REFERENCE}
_LINKS: Final = ("subject", "encounter")

TYPES: Final[dict[str, ResourceType]] = {
    t.name: t
    for t in (
        ResourceType(
            "Patient",
            "patient",
            {
                **COMMON,
                "birthDate": MOMENT,
                "gender": TOKEN,
                "extension": [EXTENSION],
                "maritalStatus": CONCEPT,
                "deceasedBoolean": FLAG,
                "deceasedDateTime": MOMENT,
                "address": [{"postalCode": TEXT, "state": TEXT, "country": TEXT}],
                "communication": [{"language": CONCEPT}],
            },
            _PATIENT,
            (),
        ),
        ResourceType(
            "Encounter",
            "encounter",
            {
                **COMMON,
                "subject": REFERENCE,
                "status": TOKEN,
                "class": {"code": TEXT},
                "type": [CONCEPT],
                "period": PERIOD,
                "reasonCode": [CONCEPT],
                "hospitalization": {"admitSource": CONCEPT, "dischargeDisposition": CONCEPT},
            },
            _ENCOUNTER,
            ("subject",),
        ),
        ResourceType(
            "Condition",
            "condition",
            {
                **_SUBJECT,
                "clinicalStatus": CONCEPT,
                "verificationStatus": CONCEPT,
                "category": [CONCEPT],
                "code": CONCEPT,
                "onsetDateTime": MOMENT,
                "onsetPeriod": BEGIN,
                "abatementDateTime": MOMENT,
                "abatementPeriod": BEGIN,
                "recordedDate": MOMENT,
            },
            _CONDITION,
            _LINKS,
        ),
        ResourceType(
            "Observation",
            "observation",
            {
                **_SUBJECT,
                "status": TOKEN,
                "category": [CONCEPT],
                "code": CONCEPT,
                "effectiveDateTime": MOMENT,
                "effectivePeriod": BEGIN,
                "effectiveInstant": MOMENT,
                "issued": MOMENT,
                **VALUES,
                "component": [{"code": CONCEPT, **VALUES}],
            },
            _OBSERVATION.replace("{values}", _values()),
            _LINKS,
        ),
        ResourceType(
            "Procedure",
            "procedure",
            {**_SUBJECT, "status": TOKEN, "code": CONCEPT, "performedDateTime": MOMENT, "performedPeriod": PERIOD},
            _PROCEDURE,
            _LINKS,
        ),
        ResourceType(
            "MedicationRequest",
            "medication_request",
            {
                **_SUBJECT,
                "status": TOKEN,
                "intent": TOKEN,
                "medicationCodeableConcept": CONCEPT,
                "medicationReference": REFERENCE,
                "contained": [{"id": TEXT, "code": CONCEPT}],
                "authoredOn": MOMENT,
            },
            _MEDICATION_REQUEST,
            (*_LINKS, "medicationReference"),
        ),
        ResourceType(
            "Immunization",
            "immunization",
            {
                **COMMON,
                "patient": REFERENCE,
                "encounter": REFERENCE,
                "status": TOKEN,
                "vaccineCode": CONCEPT,
                "occurrenceDateTime": MOMENT,
            },
            _IMMUNIZATION,
            ("patient", "encounter"),
        ),
        ResourceType(
            "AllergyIntolerance",
            "allergy_intolerance",
            {
                **COMMON,
                "patient": REFERENCE,
                "encounter": REFERENCE,
                "clinicalStatus": CONCEPT,
                "type": TOKEN,
                "category": [TOKEN],
                "criticality": TOKEN,
                "code": CONCEPT,
                "recordedDate": MOMENT,
            },
            _ALLERGY,
            ("patient", "encounter"),
        ),
        ResourceType(
            "DiagnosticReport",
            "diagnostic_report",
            {
                **_SUBJECT,
                "status": TOKEN,
                "category": [CONCEPT],
                "code": CONCEPT,
                "effectiveDateTime": MOMENT,
                "effectivePeriod": BEGIN,
                "issued": MOMENT,
                "result": [REFERENCE],
            },
            _REPORT,
            _LINKS,
        ),
        ResourceType("Medication", "medication", {**COMMON, "status": TOKEN, "code": CONCEPT}, _MEDICATION, ()),
    )
}
