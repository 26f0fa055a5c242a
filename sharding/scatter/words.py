"""What may stand in a scattered SELECT. Whatever is on none of these lists is refused."""

from sqlalchemy.sql import operators

ELEMENTS = frozenset(
    {
        "binary",
        "bindparam",
        "case",
        "cast",
        "clauselist",
        "collation",
        "expression_clauselist",
        "extract",
        "false",
        "function",
        "funcfilter",
        "grouping",
        "is_false_unary_operator",
        "is_true_unary_operator",
        "label",
        "label_reference",
        "null",
        "true",
        "tuple",
        "type_coerce",
        "typeclause",
        "unary",
    }
)
"""SQLAlchemy's names of its elements; columns and subqueries are judged one by one."""

REASONS = {
    "over": "a window function sees all rows, and each shard has only its own",
    "withingroup": "an ordered-set aggregate (percentile, mode) needs all values in one place",
    "aggregateorderby": "an aggregate with ORDER BY needs all values in one place",
    "aggregate_order_by": "an aggregate with ORDER BY needs all values in one place",
    "textclause": "text() cannot be read: write it with SQLAlchemy's functions and operators",
    "textual_select": "text() cannot be read: write it with SQLAlchemy's functions and operators",
    "compound_select": "a UNION, INTERSECT or EXCEPT is several queries: scatter each of them",
    "cte": "a common table expression (WITH) is not looked into",
    "lateral": "LATERAL is not looked into",
    "subquery": "a subquery in FROM is not looked into: write it as a join or as EXISTS",
    "sequence": "a sequence belongs to one shard",
}
"""Why these are not among ELEMENTS."""

FUNCTIONS = frozenset(
    [
        "abs",
        "btrim",
        "cardinality",
        "ceil",
        "ceiling",
        "char_length",
        "character_length",
        "coalesce",
        "concat",
        "concat_ws",
        "date_part",
        "date_trunc",
        "div",
        "exp",
        "floor",
        "greatest",
        "hashint8",
        "initcap",
        "jsonb_array_length",
        "jsonb_extract_path",
        "jsonb_extract_path_text",
        "jsonb_typeof",
        "least",
        "left",
        "length",
        "ln",
        "log",
        "lower",
        "lpad",
        "ltrim",
        "md5",
        "mod",
        "nullif",
        "octet_length",
        "position",
        "power",
        "regexp_replace",
        "repeat",
        "replace",
        "reverse",
        "right",
        "round",
        "rpad",
        "rtrim",
        "sign",
        "split_part",
        "sqrt",
        "starts_with",
        "strpos",
        "substr",
        "substring",
        "translate",
        "trim",
        "trunc",
        "upper",
        "width_bucket",
    ]
)
"""Functions whose value depends on their arguments alone."""

VOLATILE = frozenset(
    [
        "clock_timestamp",
        "current_date",
        "current_time",
        "current_timestamp",
        "gen_random_uuid",
        "localtime",
        "localtimestamp",
        "nextval",
        "now",
        "random",
        "random_normal",
        "statement_timestamp",
        "sysdate",
        "timeofday",
        "transaction_timestamp",
        "uuidv4",
        "uuidv7",
    ]
)
"""Functions whose value differs from shard to shard, or from page to page."""

MERGED_AGGREGATES = frozenset({"count", "sum", "min", "max", "avg", "bool_and", "bool_or", "every"})
"""Aggregates whose values over the shards make the value over all."""

LOCAL_AGGREGATES = MERGED_AGGREGATES | frozenset(
    ["bit_and", "bit_or", "stddev", "stddev_pop", "stddev_samp", "var_pop", "var_samp", "variance"]
)
"""Aggregates that are right where every row that they see is on one shard."""

OPERATORS = frozenset(
    {
        operators.add,
        operators.and_,
        operators.any_op,
        operators.all_op,
        operators.asc_op,
        operators.between_op,
        operators.collate,
        operators.concat_op,
        operators.contains_op,
        operators.desc_op,
        operators.distinct_op,
        operators.endswith_op,
        operators.eq,
        operators.exists,
        operators.floordiv,
        operators.ge,
        operators.getitem,
        operators.gt,
        operators.icontains_op,
        operators.iendswith_op,
        operators.ilike_op,
        operators.in_op,
        operators.inv,
        operators.is_,
        operators.is_distinct_from,
        operators.is_false,
        operators.is_not,
        operators.is_not_distinct_from,
        operators.is_true,
        operators.istartswith_op,
        operators.json_getitem_op,
        operators.json_path_getitem_op,
        operators.le,
        operators.like_op,
        operators.lt,
        operators.mod,
        operators.mul,
        operators.ne,
        operators.neg,
        operators.not_between_op,
        operators.not_contains_op,
        operators.not_endswith_op,
        operators.not_ilike_op,
        operators.not_in_op,
        operators.not_like_op,
        operators.not_regexp_match_op,
        operators.not_startswith_op,
        operators.nulls_first_op,
        operators.nulls_last_op,
        operators.or_,
        operators.regexp_match_op,
        operators.startswith_op,
        operators.sub,
        operators.truediv,
    }
)

OWN_OPERATORS = frozenset({"@>", "<@", "&&", "?", "?|", "?&", "->", "->>", "#>", "#>>", "||"})
"""PostgreSQL's operators on arrays, ranges and JSON, which SQLAlchemy knows by their text."""
