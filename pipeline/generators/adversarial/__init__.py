"""The adversarial family: one way from rows to vectors, one training loop, one way back, for every GAN of rows and codes.

What is where, from below:

    numbers.py     a numeric column as a place and states: ranks, ranges, or modes
    softmaxes.py   all one-hots at once: Gumbel softmax, soft or straight-through
    vector.py      rows as vectors for critics; outputs of a generator as such vectors (`activate`) and as rows (`read`)
    conditions.py  what is told of a row (`ConditionVector`), and of which rows (`TellNothing`, `TellOne`, `TellAll`)
    networks.py    `GeneratorNet` (plain, concat, residual), `LeakyCritic`, `ResidualCritic`
    features.py, images.py   critics that show their last hidden layer; convolutions over the row as a square: ctab_gan, vae_gan
    intervals.py, long_tails.py   levels as intervals of one number: healthgan; long tails as logarithms: ctab_gan
    losses.py      `Wasserstein`, `Logistic` (R1), `Boundary`
    match.py       what a move of critic and generator computes
    loop.py        `Training`: players in turn, averages, looks, checkpoints, verdicts (`health.py`, `fidelity.py`)
    margins.py     margins brought back to those of training
    generator.py   `AdversarialGenerator`: puts these together, draws, saves and loads
    latent.py      generators in the latent space of an autoencoder: medgan and its kin
    private.py, private_settings.py   critics that learn by noisy steps: `PrivateAdversarialGenerator`
    named_columns.py, subgroups.py, information.py, fair_match.py, rejection_filter.py   of the fair ones: bt_gan, fairgan
    structural.py, structural_rows.py, structure.py, causal_settings.py   along a causal graph: decaf
    settings.py    `AdversarialConfig`: the settings that all share

A new generator is a module with a subclass of `AdversarialGenerator` that has `name`, `title` and a `Config` (a subclass of
`AdversarialConfig` with its presets and the defaults that differ), and says only what is its own:

    _conditions(encoder)         which discrete columns are told (none by default)
    _teller(states, rows)        what is told of which training rows (one column a row by default; `TellAll` for labels)
    _tell(n, rng), _tell_fixed   what is told where rows are drawn; must be right for what `_teller` tells
    _generator(blocks, told)     its generator network; a `GeneratorNet` or a subclass that ends in `head`
    _critic(width)               its critic: a subclass of `Critic` with `score(packs)`
    _match(match)                a subclass of `Match`, made with `OwnMatch(**vars(match), more=...)`

A `Match` overrides `critic_move`, `generator_move` or `shown` (what of the outputs the critic sees), and `players()` for more
players: a classifier, a second critic, teachers. A player is `Player(name, network, move, rate)`; its move returns
`Move(loss, judged)`, and only its own network's weights change by it. Put it before the generator, which is last. Everything
random in a move comes from `match.streams` (`order` on the CPU, `noise` on the device). A step before the game (an autoencoder)
belongs into `_match`, trained by `pipeline/generators/training.py: train`. Whatever is saved beside the network goes through
`_state` and `_restore`. Then one line in the registry, QUICK settings in tests/generators/generator_tables.py, a page of docs.
"""
