"""The torch modules that families are built of. Each file has one kind of network; none knows a family, a data set or the loop."""
