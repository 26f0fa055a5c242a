"""Messages between the services: an outbox in each database, Redis Streams between them, an inbox behind."""
