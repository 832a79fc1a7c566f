"""The file formats of pictures and recordings: the one table of their first bytes.

`ImagePart.format_of` and `AudioPart.format_of` give plugins what it knows. A format that is not read has a row too, so
that the error can name it and say what to do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from smallai_assistant.errors import InputTooLarge, InvalidAudio, InvalidImage, InvalidInput

# The longest pattern looks at 36 bytes; white space before the first tag of an SVG drawing or a web page comes on top.
HEAD_BYTES = 256

_HEIF_BRANDS = rb"(hei[cmsx]|hev[cmsx]|mif1|msf1)"  # ISO 23008-12, annex B
_CONVERT_SOUND = "convert it to WAV or FLAC"
_SAVE_PICTURE = "save it as PNG or JPEG"


@dataclass(frozen=True, slots=True)
class FileFormat:
    """One format.

    Attributes:
        name: short, for programs.
        title: for sentences, with its article.
        modality: what kind of part a file of it becomes; None for formats that are neither a picture nor a recording.
        pattern: a regular expression for the first bytes of its files.
        suffixes: of its file names, separated by spaces, for files whose bytes tell nothing.
        advice: what to do with such a file; empty for formats that are read.
        mime: the type by which browsers play it; empty if they do not.
    """

    name: str
    title: str
    modality: Literal["image", "audio"] | None
    pattern: bytes
    suffixes: str = ""
    advice: str = ""
    mime: str = ""

    @property
    def is_read(self) -> bool:
        return not self.advice


# The first row that matches decides: patterns that would also match other formats come last.
FORMATS = (
    # -- read --
    FileFormat("png", "a PNG picture", "image", rb"\x89PNG", ".png"),
    FileFormat("jpeg", "a JPEG picture", "image", rb"\xff\xd8\xff", ".jpg .jpeg"),
    FileFormat("gif", "a GIF picture", "image", rb"GIF8[79]a", ".gif"),
    FileFormat("webp", "a WebP picture", "image", rb"RIFF.{4}WEBP", ".webp"),
    FileFormat("wav", "a WAV recording", "audio", rb"(RIFF|RIFX|RF64|BW64).{4}WAVE", ".wav", mime="audio/wav"),
    FileFormat("flac", "a FLAC recording", "audio", rb"fLaC", ".flac", mime="audio/flac"),
    FileFormat("ogg", "an OGG recording", "audio", rb"OggS", ".ogg .oga .opus", mime="audio/ogg"),
    FileFormat(
        "matroska", "a WebM or Matroska file", "audio", rb"\x1a\x45\xdf\xa3", ".webm .mka .mkv", mime="audio/webm"
    ),
    # -- not read: pictures --
    FileFormat("avif", "an AVIF file", "image", rb".{4}ftypavi[fs]", ".avif", _SAVE_PICTURE),
    FileFormat("heic", "a HEIC file (iPhone)", "image", rb".{4}ftyp" + _HEIF_BRANDS, ".heic .heif", "export as JPEG"),
    FileFormat("jxl", "a JPEG XL file", "image", rb"\xff\x0a|\0\0\0\x0cJXL ", ".jxl", _SAVE_PICTURE),
    FileFormat("jp2", "a JPEG 2000 file", "image", rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  ", ".jp2", _SAVE_PICTURE),
    FileFormat(
        "tiff", "a TIFF file or a raw photo", "image", rb"II[*+]\0|MM\0[*+]", ".tif .tiff .dng", "export as JPEG"
    ),
    FileFormat("bmp", "a BMP file", "image", rb"BM.{4}\0{4}", ".bmp", _SAVE_PICTURE),
    FileFormat("psd", "a Photoshop file", "image", rb"8BPS", ".psd", "export as PNG or JPEG"),
    FileFormat("xcf", "a GIMP file", "image", rb"gimp xcf", ".xcf", "export as PNG or JPEG"),
    FileFormat("svg", "an SVG drawing", "image", rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?<svg", ".svg", "export as PNG"),
    FileFormat("xml", "XML, perhaps an SVG drawing", None, rb"(\xef\xbb\xbf)?\s*<\?xml", "", "export as PNG"),
    FileFormat("ps", "PostScript", "image", rb"%!PS|\xc5\xd0\xd3\xc6", ".ps .eps", "export as PNG"),
    # -- not read: recordings and videos --
    FileFormat("aiff", "an AIFF recording", "audio", rb"FORM.{4}AIF[FC]", ".aif .aiff", _CONVERT_SOUND),
    FileFormat("au", "an AU recording", "audio", rb"\.snd", ".au", _CONVERT_SOUND),
    FileFormat("caf", "a CAF recording", "audio", rb"caff\0\x01", ".caf", _CONVERT_SOUND),
    FileFormat("w64", "a Wave64 recording", "audio", rb"riff\x2e\x91\xcf\x11", ".w64", _CONVERT_SOUND),
    FileFormat("amr", "an AMR recording", "audio", rb"#!AMR", ".amr", _CONVERT_SOUND),
    FileFormat("asf", "a WMA or WMV file", "audio", rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", ".wma .wmv", _CONVERT_SOUND),
    FileFormat(
        "midi", "a MIDI file", "audio", rb"MThd", ".mid .midi", "it holds notes, no sound: record how it is played"
    ),
    FileFormat("ape", "a Monkey's Audio file", "audio", rb"MAC [\0-\xff]", ".ape", _CONVERT_SOUND),
    FileFormat("wavpack", "a WavPack file", "audio", rb"wvpk", ".wv", _CONVERT_SOUND),
    FileFormat("avi", "an AVI video", "audio", rb"RIFF.{4}AVI ", ".avi", "save its sound as WAV or FLAC"),
    FileFormat("flv", "an FLV video", "audio", rb"FLV\x01", ".flv", "save its sound as WAV or FLAC"),
    # -- not read: neither --
    FileFormat("pdf", "a PDF document", None, rb"\s*%PDF", "", "save the picture in it as PNG or JPEG"),
    FileFormat("zip", "a ZIP archive", None, rb"PK\x03\x04", "", "unpack it"),
    FileFormat("gzip", "a gzip archive", None, rb"\x1f\x8b\x08", "", "unpack it"),
    FileFormat(
        "html", "a web page", None, rb"\s*<(?i:!doctype html|html)", "", "save the file itself, not the page around it"
    ),
    # -- patterns that other formats match too --
    FileFormat("mov", "an MP4 or M4A file", "audio", rb".{4}ftyp", ".mp4 .m4a .m4b .mov .3gp", mime="audio/mp4"),
    FileFormat("ico", "an icon", "image", rb"\0\0[\x01\x02]\0", ".ico", _SAVE_PICTURE),
    FileFormat("mpeg", "an MPEG video", "audio", rb"\0\0\x01[\xba\xb3]", ".mpg .mpeg", "save its sound as WAV or FLAC"),
    # A frame of MPEG sound begins with eleven set bits; of AAC with twelve, and two zeros after the next bit.
    FileFormat("aac", "an AAC recording", "audio", rb"\xff[\xf0\xf1\xf8\xf9]", ".aac", mime="audio/aac"),
    FileFormat("mp3", "an MP3 recording", "audio", rb"ID3|\xff[\xe0-\xff]", ".mp3", mime="audio/mpeg"),
)
WHAT_IS_READ = "give PNG, JPEG, WebP or GIF, or WAV, FLAC, OGG, MP3, M4A, AAC, MP4 or WebM"


def format_of(head: bytes) -> FileFormat | None:
    """The format that the first bytes of a file tell; None if no known format begins with them."""
    head = head[:HEAD_BYTES]
    return next((row for row in FORMATS if re.match(row.pattern, head, re.DOTALL)), None)


def modality_of(head: bytes, suffix: str) -> Literal["image", "audio"] | None:
    """What kind of part a file becomes: its bytes decide, and its suffix if they do not tell."""
    found = format_of(head)
    if found is not None and found.modality is not None:
        return found.modality
    return next((row.modality for row in FORMATS if suffix and suffix.lower() in row.suffixes.split()), None)


def checked_format(data: bytes, wanted: Literal["image", "audio"], name: str) -> str:
    """The name of a file's format.

    Args:
        name: the name of the file in messages.

    Raises:
        InvalidImage, InvalidAudio: the file is of no format that is read as what is wanted.
    """
    found = format_of(data)
    if found is not None and found.is_read and found.modality == wanted:
        return found.name
    noun, error = ("picture", InvalidImage) if wanted == "image" else ("recording", InvalidAudio)
    if not data:
        raise error(f"{name}: the file is empty")
    if found is None:
        raise error(f"{name}: not a supported {noun}, or its first bytes are missing")
    # A picture given as a recording needs the general advice and not that of its format.
    is_other = found.is_read or found.modality not in (wanted, None)
    raise error(f"{name}: {found.title}, not a supported {noun}", hint=None if is_other else found.advice)


def read_file(path: Path, limit_bytes: int) -> bytes:
    """Reads a whole file.

    Raises:
        InvalidInput: it is missing, is a folder, or cannot be read.
        InputTooLarge: it is over the limit.
    """
    try:
        # A folder, a device or a pipe is refused before it is opened: reading a pipe may never end.
        if not path.is_file():
            kind = "a folder" if path.is_dir() else "not there"
            raise InvalidInput(f"{path}: {kind}", hint="give the path of a file")
        n_bytes = path.stat().st_size
        if n_bytes > limit_bytes:
            raise InputTooLarge(f"{path}: {n_bytes:,} bytes, {limit_bytes:,} allowed")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path}: cannot be read: {error}") from error
