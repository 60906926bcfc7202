"""Register a user with a form full of mistakes, some of them secret."""

import asyncio
from typing import Annotated

import httpx
from fastapi import FastAPI
from pydantic import BaseModel, Field, SecretStr, field_validator

from snippets.errors.validation_problems import install_validation_handler


class User(BaseModel):
    """Somebody with a telephone."""

    extensions: dict[str, Annotated[int, Field(ge=1000)]]
    password: SecretStr = Field(min_length=12)
    name: str

    @field_validator("name")
    @classmethod
    def _free(cls, name: str) -> str:
        if name == "ada":
            raise ValueError(f"{name} is taken")
        return name


async def main() -> None:
    """Show where the form is wrong, and that it is not repeated."""
    app = FastAPI()
    install_validation_handler(app)

    @app.post("/users")
    async def register(user: User) -> str:
        return user.name

    form = {"extensions": {"desk/2": 7}, "password": "hunter2", "name": "ada"}
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://pbx") as client:
        answer = await client.post("/users", json=form)
        for error in answer.json()["errors"]:
            print(error["pointer"], "-", error["message"])
            # > /extensions/desk~12 - Input should be greater than or equal to 1000
            # > /password - Value should have at least 12 items after validation, not 7
            # > /name - Value error
        print("hunter2" in answer.text)
        # > False

        json = {"content-type": "application/json"}
        answer = await client.post("/users", content='{"name": NaN}', headers=json)
        print(answer.status_code, answer.json()["detail"])
        # > 400 The body is not JSON.


if __name__ == "__main__":
    asyncio.run(main())
