"""The order audit: does every service hold the order that it must hold, once, at its place, and agreeing?

`facts` is what is read of one order, `judge` decides (pure), `books` reads the databases as sorted streams,
`run` puts the three together; `trace` tells the story of one order.
"""
