"""The schema of every database, as frozen SQL by tree and version."""
