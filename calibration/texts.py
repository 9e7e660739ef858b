"""Names in a model are texts: protobuf takes other bytes as well, which fail somewhere later."""

from __future__ import annotations

from google.protobuf.message import Message


def check_texts(message: Message) -> None:
    """Look at every text of a message, and of those within it.

    Raises:
        UnicodeDecodeError: one is not UTF-8.
    """
    for field, value in message.ListFields():
        if field.type not in (field.TYPE_MESSAGE, field.TYPE_STRING):
            continue
        for each in (value,) if isinstance(value, (Message, str, bytes)) else value:
            if isinstance(each, Message):
                check_texts(each)
            elif isinstance(each, bytes):
                each.decode()  # as protobuf gives a text that is none
