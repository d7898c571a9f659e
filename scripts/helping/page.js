"use strict";
// The answers side by side. Every text is put in as text, never as HTML.
const { words, names, rows } = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function option(select, value, text) {
  const made = element("option", "", text);
  made.value = value;
  select.append(made);
}

function figures(answer) {
  const marks = [["refusal", answer.refusal], ["copy", answer.copy], ["empty", answer.empty], ["cut", answer.cut], ["exact", answer.exact]];
  const said = marks.filter(([, is]) => is).map(([name]) => words[name + "_mark"]);
  return ["ROUGE-L " + answer.rouge.toFixed(3), ...said].join(words.and);
}

function answered(row, name, other) {
  const answer = row.answers[name];
  const difference = answer.rouge - row.answers[other].rouge;
  const box = element("div", difference > 0 ? "more" : difference < 0 ? "less" : "", "");
  box.append(element("p", "figures", names[name] + words.colon + figures(answer)));
  box.append(element("p", "text", answer.text));
  return box;
}

function labelled(label, text) {
  const box = document.createDocumentFragment();
  box.append(element("p", "figures", label), element("p", "text", text));
  return box;
}

function task(row, left, right) {
  const box = element("article", "task", "");
  box.append(element("p", "text instruction", row.instruction));
  if (row.input) box.append(labelled(words.input, row.input));
  box.append(labelled(words.reference, row.reference));
  const pair = element("div", "pair", "");
  pair.append(answered(row, left, right), answered(row, right, left));
  box.append(pair);
  return box;
}

function wanted(row, left, right) {
  const texts = [row.instruction, row.input, row.reference, row.answers[left].text, row.answers[right].text];
  const search = byId("search").value.toLowerCase();
  if (!texts.some((text) => text.toLowerCase().includes(search))) return false;
  const difference = row.answers[right].rouge - row.answers[left].rouge;
  const filter = byId("filter").value;
  return filter === "all" || (filter === "better_only" ? difference > 0 : difference < 0);
}

function show() {
  const left = byId("left").value;
  const right = byId("right").value;
  const found = rows.filter((row) => wanted(row, left, right));
  byId("tasks").replaceChildren(...found.map((row) => task(row, left, right)));
  byId("shown").textContent = words.shown.replace("{n}", found.length).replace("{all}", rows.length);
}

function start() {
  byId("search").placeholder = words.search;
  byId("search").ariaLabel = words.search;
  byId("left-word").textContent = words.left;
  byId("right-word").textContent = words.right;
  for (const name of ["all", "better_only", "worse_only"]) option(byId("filter"), name, words[name]);
  byId("filter").ariaLabel = words.answers;
  for (const [name, text] of Object.entries(names)) {
    option(byId("left"), name, text);
    option(byId("right"), name, text);
  }
  byId("right").selectedIndex = Math.min(1, Object.keys(names).length - 1);
  for (const id of ["search", "filter", "left", "right"]) byId(id).addEventListener("input", show);
  show();
}

start();
