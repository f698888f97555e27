"""Generated from proto/shoal/v1 by tools/generate_proto.py; not to be edited."""
