"""The child process of `convert`."""

from smallai_assistant.children import serve
from smallai_assistant.convert import convert_here

if __name__ == "__main__":
    serve(convert_here)
