// Keys and in-place corrections of the page of predictions; without this script its forms do the same.
"use strict";
const cards = [...document.querySelectorAll("#cards > .card")];

function current() {
  return cards.findIndex((card) => card.contains(document.activeElement));
}

function move(step) {
  const next = Math.min(cards.length - 1, Math.max(0, current() + step));
  if (cards.length) cards[next].focus();
}

async function keep(form) {
  const card = form.closest(".card");
  const state = card.querySelector(".state");
  const label = form.elements.label.value;
  const body = { predictions: form.elements.file.value, labels: { [form.elements.row.value]: label } };
  const answer = await fetch("/v1/corrections", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  if (answer.ok) {
    card.classList.add("corrected");
    state.textContent = label === form.elements.label.defaultValue ? "accepted" : "corrected";
    card.focus();
    move(1);
  } else {
    state.textContent = (await answer.json()).error;
    form.elements.label.focus();
  }
}

for (const card of cards) {
  const form = card.querySelector("form");
  if (form) {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      keep(form);
    });
  }
}

document.addEventListener("keydown", (event) => {
  if (!cards.length || event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(document.activeElement.tagName);
  if (event.key === "Escape" && typing && current() >= 0) cards[current()].focus();
  if (typing) return;
  const form = current() >= 0 ? cards[current()].querySelector("form") : null;
  if (event.key === "j") move(1);
  else if (event.key === "k") move(-1);
  else if (event.key === "a" && form) form.requestSubmit();
  else if (event.key === "c" && form) form.elements.label.select();
  else return;
  event.preventDefault();
});
