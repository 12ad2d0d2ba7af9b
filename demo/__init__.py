"""The main job: starts everything, moves state under load, proves the results, leaves a report."""
