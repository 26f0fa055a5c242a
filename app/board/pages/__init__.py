"""The pages of the board; `front` has all of their routes."""

from fastapi import APIRouter

from app.board.pages import customers, entry, sales, staff, stored

front = APIRouter(include_in_schema=False)
# As they are: what is included anew loses how its route reads a request.
for _router in (
    entry.files_router,
    entry.router,
    staff.router,
    stored.router,
    sales.router,
    customers.open_router,
    customers.router,
):
    front.routes.extend(_router.routes)
