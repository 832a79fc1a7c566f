"""The child process of `convert`."""

from smallai_assistant.models.child_process import serve
from smallai_assistant.models.convert import convert_here

if __name__ == "__main__":
    serve(convert_here)
