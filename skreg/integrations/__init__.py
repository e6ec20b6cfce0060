"""The regularizer in other people's training loops; each module needs the extra of its own name.

They are imported by name, as in ``from skreg.integrations.lightning import SmoothKernelCallback``, because this
package must load where none of those extras is installed.
"""
