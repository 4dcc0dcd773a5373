"""The files that say which packages a job needs, as one text that pip and uv read in the pods.

`read` takes the four kinds of files that there are. What only this machine knows, files that are
named in other files, is put in place here; what only the image knows, its Python and its platform,
is left to be decided there.
"""

from kij_train.requirements.sources import read

__all__ = ["read"]
