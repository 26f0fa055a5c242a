"""Makes the wheels that are published out of this one repository."""
