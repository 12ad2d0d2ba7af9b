"""The paper's set of experiments, scaled to this machine: runs, charts and one report."""
