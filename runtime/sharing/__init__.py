"""Artifacts to and from other places: folders of models elsewhere, and repositories of the Hugging Face Hub.

addresses reads the names of places, sources reads folders, hub reads and writes repositories, candidates compares an artifact with the versions at a
place, installing publishes one in a folder of models, card writes the model card, and pulling and pushing are the two use cases. Files are copied
and their checksums are compared. No graph is opened, so nothing of an artifact is executed.
"""
