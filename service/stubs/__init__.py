"""Made from proto/ by `make stubs`."""
