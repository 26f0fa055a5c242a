"""The order audit: whether every service holds the orders that it must hold, once, in place, and agreeing.

`rules` decides about what was read of one order (pure), `databases` reads the databases as sorted streams,
`report` puts the two together; `trace` is everything that is known of one order.
"""
