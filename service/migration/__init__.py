"""Bins that move while the job runs: routing table, F and S, plans, the controller."""
