"""How the files in `pretrained/` are made: priors and networks, from recorded tasks or studies."""
