"""`megaphone doctor`: looks at everything a job needs and says how to mend what is wrong.

May import all of `service`. Read finding (what is said), cluster_facts and judging (what Kafka's
answers mean; pure), asking (the questions to Kafka), trial (one record through a topic of its own),
machine (this machine), command.
"""
