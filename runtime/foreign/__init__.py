"""The import of graphs that were made elsewhere: what a graph states, what its tensors mean, and an artifact made of both.

inspection   names, types and dimensions of a graph's inputs and outputs, and a trial run
guesses      the meaning of inputs and outputs, with the reason for each guess
importing    the artifact: manifest, files, check, sheet
"""
