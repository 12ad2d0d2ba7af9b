"""`megaphone doctor`: looks at everything a job needs and says how to mend what is wrong.

May import all of `service`. Read finding (what is said), cluster_facts and judging (what Kafka's
answers mean; pure), unpacking (packed input against memory; pure), asking (the questions to Kafka),
trial (one record through a topic of its own), machine and cgroup (this machine), command.
"""
