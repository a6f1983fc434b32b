"""A customer service desk: two classifiers decide how a third model answers, or whether a person does."""
