"""`downslope minimize`: one method, or several raced on one problem, with a table and a page."""
