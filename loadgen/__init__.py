"""NEXMark load: schedule, generator, latency. Of service it imports the NEXMark events only."""
