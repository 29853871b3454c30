"""The example application: the data model of a voice agent with retrieval over documents."""
