"""The pure part of Mailwright: everything that modules, plugins and tests share."""
