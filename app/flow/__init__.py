"""Control over the flow: how much a service takes at once, and how much others may send to it."""
