"""Everything about trained runs in one place: a page, a PDF, or a folder of pictures."""

from skreg.report.content import Report, Section, build_report
from skreg.report.html import to_html
from skreg.report.pdf import to_pdf
from skreg.report.writing import FOLDERS, FORMATS, check_output, write_report

__all__ = [
    "FOLDERS",
    "FORMATS",
    "Report",
    "Section",
    "build_report",
    "check_output",
    "to_html",
    "to_pdf",
    "write_report",
]
