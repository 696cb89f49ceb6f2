"""The torch modules from which families are built. Each file has one kind of network and depends on no family, data set or loop."""
