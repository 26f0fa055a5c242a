"""The order audit: does every service hold the order that it must hold, once, at its place, and agreeing?

`rules` decides about what was read of one order (pure), `databases` reads the databases as sorted streams,
`report` puts the two together; `trace` is everything that is known of one order.
"""
