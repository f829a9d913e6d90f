"""Identity: keys, tokens, the authorization server and what it publishes."""
