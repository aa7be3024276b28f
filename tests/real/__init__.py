"""The promises of a generated service, proven against programs that none of us wrote."""
