"""Moving finished rows out of live tables into their archive."""
