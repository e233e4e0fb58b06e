"""Chat templates: render messages, and find the place of a memory in a prompt. Knows tokenizers and no model.

A frame is the tokens of a prompt before and after the place of a memory.
A turn is one message of a chat with the text that the template writes around it. It is learnt by rendering marked messages.
A spelling writes token ids as characters, one for each added token, so that text can be searched in them.
"""
