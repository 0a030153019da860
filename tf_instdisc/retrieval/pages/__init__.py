"""Pictures and pages about a run; they need the extra `report`."""

from tf_instdisc.errors import require_extra

require_extra("report", "bokeh", "jinja2", "matplotlib")
