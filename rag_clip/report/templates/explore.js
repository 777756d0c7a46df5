"use strict";
const {classes, texts} = JSON.parse(document.getElementById("data").textContent);
const main = document.getElementById("classes"), search = document.getElementById("search"), order = document.getElementById("order");
const make = (tag, text, parent, className) => {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  if (parent) parent.append(made);
  return made;
};
const percent = value => (100 * value).toFixed(value < 0.1 ? 1 : 0) + "%";
const marked = (parent, text, words) => {  // the words of the search in bold yellow
  let rest = text, low = text.toLowerCase();
  const first = () => Math.min(...words.map(word => low.indexOf(word)).filter(at => at >= 0));
  for (let at = words.length ? first() : Infinity; low.length === rest.length && at < Infinity; at = first()) {
    const word = words.filter(each => low.startsWith(each, at)).sort((a, b) => b.length - a.length)[0];
    parent.append(rest.slice(0, at));
    make("mark", rest.slice(at, at + word.length), parent);
    rest = rest.slice(at + word.length);
    low = low.slice(at + word.length);
  }
  parent.append(rest);
};
let words = [];
const fill = (box, one) => {
  box.replaceChildren();
  const left = make("section", undefined, box), right = make("section", undefined, box);
  make("h2", "Texts", left);
  const list = make("ol", undefined, left), widest = Math.max(...one.texts.map(text => Math.abs(text[1])));
  for (const [text, share, weight, role, source] of one.texts) {
    const row = make("li", undefined, list), line = make("span", undefined, row);
    line.dir = "auto";
    marked(line, texts[text], words);
    make("small", ` ${percent(share)} share, weight ${weight.toPrecision(3)}, ${role === "context" ? "context" : "main text"}${source ? ", from " + source : ""}`, row);
    make("i", undefined, make("span", undefined, row, "bar")).style.width = 100 * Math.max(share, 0) / widest + "%";
  }
  make("h2", "Nearest classes", right);
  const near = make("ul", undefined, right);
  for (const [other, cosine] of one.near) {
    const row = make("li", undefined, near), button = make("button", undefined, row);
    button.type = "button";
    make("bdi", classes[other].name, button);
    button.onclick = () => { show(other); };
    make("small", ` cosine ${cosine.toFixed(3)}`, row);
  }
};
const rows = classes.map((one, at) => {
  const row = document.createElement("details"), line = make("summary", undefined, row);
  make("bdi", one.name, make("b", undefined, line));
  make("small", `${one.texts.length} text${one.texts.length === 1 ? "" : "s"}`, line);
  if (one.near.length) make("small", `nearest ${classes[one.near[0][0]].name}, ${one.near[0][1].toFixed(3)}`, line);
  make("small", `risk ${percent(one.risk)}`, line);
  const box = make("div", undefined, row);
  row.addEventListener("toggle", () => {  // what a class holds is made when it is opened
    if (row.open) fill(box, one); else box.replaceChildren();
    if (row.open) history.replaceState(null, "", "#" + encodeURIComponent(one.name));
  });
  return row;
});
const low = classes.map(one => [one.name, ...one.texts.map(text => texts[text[0]])].join("\n").toLowerCase());
const show = at => {
  if (rows[at].hidden) { search.value = ""; find(); }
  rows[at].open = true;
  rows[at].scrollIntoView({block: "center"});
  rows[at].firstChild.focus({preventScroll: true});
};
const sort = () => {
  const by = {given: (a, b) => a - b, name: (a, b) => classes[a].name.localeCompare(classes[b].name), risk: (a, b) => classes[b].risk - classes[a].risk};
  main.append(...[...rows.keys()].sort(by[order.value]).map(at => rows[at]));
};
const find = () => {
  words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  rows.forEach((row, at) => {
    row.hidden = !words.every(word => low[at].includes(word));
    shown += !row.hidden;
    if (row.open) fill(row.lastChild, classes[at]);
  });
  document.getElementById("count").textContent = `${shown} of ${classes.length} classes`;
};
search.addEventListener("input", find);
order.addEventListener("change", sort);
search.form.addEventListener("submit", event => event.preventDefault());
sort();
find();
const asked = () => {
  const at = classes.findIndex(one => one.name === decodeURIComponent(location.hash.slice(1)));
  if (at >= 0) show(at);
};
addEventListener("hashchange", asked);
asked();
