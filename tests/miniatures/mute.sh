# Ends well without a word.
exit 0
