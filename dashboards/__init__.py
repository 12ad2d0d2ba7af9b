"""The Grafana dashboards of a job, as values, and what turns them into JSON."""
