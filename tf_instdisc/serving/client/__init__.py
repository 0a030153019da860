"""Clients of a served model over gRPC and REST."""
