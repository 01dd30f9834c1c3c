"""Studies on recorded tasks: methods, problems, scores."""
