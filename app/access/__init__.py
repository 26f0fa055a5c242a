"""Who calls, and what he may do: identities, credentials, and one table of who may use which route."""
