"""The SQL macros that compiled views call. Those that meet what they cannot take raise; none turns it into NULL."""

from __future__ import annotations

from typing import Final

# RE2 and Python read these alike; years start at 1000 so that no calendar has to be guessed.
DAY_PATTERN: Final = r"[1-9]\d\d\d-\d\d-\d\d"
MONTH_PATTERN: Final = r"[1-9]\d\d\d-\d\d"
YEAR_PATTERN: Final = r"[1-9]\d\d\d"
TIME_PATTERN: Final = DAY_PATTERN + r"T([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d+)?)?(Z|[+-](0\d|1[0-4]):[0-5]\d)?"
_ZONE: Final = r"(Z|[+-]\d\d:\d\d)$"

_READING: Final = (
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
    # The same for a reference to any type: there the type must be written in it.
    r"""_resolve_any(r) AS CASE WHEN r IS NULL OR contains(r, '?') OR starts_with(r, '#') THEN NULL
       ELSE nullif(regexp_extract(r, '(?:^|/)([A-Z][A-Za-z]+/[A-Za-z0-9.-]+)(?:/_history/[^/]*)?$', 1), '') END""",
)

_JSON: Final = (
    "_get(j, p) AS CASE json_type(j, p) WHEN 'NULL' THEN NULL ELSE json_extract(j, p) END",
    "_text(j) AS (j ->> '$')",
    "_list(j) AS list_filter(CAST(j AS JSON[]), lambda x: x IS NOT NULL AND x::VARCHAR <> 'null')",
    """_items(j) AS CASE json_type(j) WHEN 'ARRAY' THEN _list(j) WHEN 'NULL' THEN NULL
       ELSE CASE WHEN j IS NULL THEN NULL ELSE [j] END END""",
    # Without doubles, the first of each standing (list_distinct shuffles).
    "_distinct(l) AS list_filter(l, lambda x, i: list_position(l, x) = i)",
    # FHIRPath's singleton evaluation.
    """_one(l) AS CASE WHEN len(l) > 1 THEN error('more than one item where one was expected') ELSE l[1] END""",
    """_whole(x) AS CASE WHEN x IS NULL THEN NULL WHEN x = trunc(x) THEN CAST(x AS BIGINT)
       ELSE error('not a whole number') END""",
    "_spell(x) AS CASE WHEN x = trunc(x) AND abs(x) < 1e15 THEN CAST(CAST(x AS BIGINT) AS VARCHAR) "
    "ELSE CAST(x AS VARCHAR) END",
)

_COMPARING: Final = (
    # -1, 0, 1, or NULL where the precisions leave it open. Seconds and their fractions are one precision.
    f"""_order(a, b) AS CASE WHEN a = b THEN 0
       WHEN regexp_full_match(a, '{TIME_PATTERN}') AND regexp_full_match(b, '{TIME_PATTERN}')
            AND strlen(a) >= 19 AND strlen(b) >= 19
       THEN sign(epoch_us(CAST(a AS TIMESTAMPTZ)) - epoch_us(CAST(b AS TIMESTAMPTZ)))
       ELSE _prefix_order(regexp_replace(a, '{_ZONE}', ''), regexp_replace(b, '{_ZONE}', '')) END""",
    """_time_order(a, b) AS CASE WHEN a = b THEN 0 WHEN strlen(a) >= 8 AND strlen(b) >= 8
       THEN sign(epoch_us(CAST(a AS TIME)) - epoch_us(CAST(b AS TIME))) ELSE _prefix_order(a, b) END""",
)
_PREFIX: Final = """_prefix_order(a, b) AS CASE
       WHEN left(a, least(strlen(a), strlen(b))) < left(b, least(strlen(a), strlen(b))) THEN -1
       WHEN left(a, least(strlen(a), strlen(b))) > left(b, least(strlen(a), strlen(b))) THEN 1 END"""

# Boundaries of what is known only partly: a decimal by its last digit, a date or time by the fields that it has.
_LAST_DAY: Final = "strftime(last_day(CAST({} AS DATE)), '%d')"
_BOUNDARIES: Final = (
    """_half_step(j) AS pow(10::DOUBLE, -len(regexp_extract(j::VARCHAR, '\\.(\\d+)$', 1))) / 2""",
    """_low_number(j) AS CASE WHEN _number(j) IS NULL THEN NULL ELSE round(_number(j) - _half_step(j), 8) END""",
    """_high_number(j) AS CASE WHEN _number(j) IS NULL THEN NULL ELSE round(_number(j) + _half_step(j), 8) END""",
    "_low_date(t) AS CASE strlen(t) WHEN 4 THEN t || '-01-01' WHEN 7 THEN t || '-01' ELSE t END",
    f"""_high_date(t) AS CASE strlen(t) WHEN 4 THEN t || '-12-31'
       WHEN 7 THEN t || '-' || {_LAST_DAY.format("t || '-01'")} ELSE t END""",
    "_low_time(t) AS t || substr('00:00:00.000', strlen(t) + 1)",
    "_high_time(t) AS t || substr('23:59:59.999', strlen(t) + 1)",
    f"""_low_moment(t) AS CASE WHEN t IS NULL THEN NULL ELSE
       _low_date(regexp_extract(t, '^[0-9-]+')) || 'T'
       || _low_time(regexp_replace(regexp_extract(t, 'T(.*)$', 1), '{_ZONE}', ''))
       || coalesce(nullif(regexp_extract(t, 'T.*?{_ZONE}', 1), ''), '+14:00') END""",
    f"""_high_moment(t) AS CASE WHEN t IS NULL THEN NULL ELSE
       _high_date(regexp_extract(t, '^[0-9-]+')) || 'T'
       || _high_time(regexp_replace(regexp_extract(t, 'T(.*)$', 1), '{_ZONE}', ''))
       || coalesce(nullif(regexp_extract(t, 'T.*?{_ZONE}', 1), ''), '-12:00') END""",
)

MACROS: Final = (*_READING, *_JSON, _PREFIX, *_COMPARING, *_BOUNDARIES)
"""The macros, in an order in which they can be created (`CREATE MACRO` before each)."""
