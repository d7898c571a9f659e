"use strict";
// The page of scripts/report.py. All text goes in as text (textContent), never as markup; nothing is loaded.

const told = JSON.parse(document.getElementById("numbers").textContent);
const language = document.documentElement.lang;
const STAGES = ["generate", "classify", "instances", "filter"];
const PAGE = 50; // rows shown at once
const SPACE = language === "en" ? " " : ""; // between sentences

// ---------------------------------------------------------------------------------------------------------------------
// Words, numbers, elements.

const byId = (id) => document.getElementById(id);
const words = (name, values = {}) => told.words[name].replace(/\{(\w+)\}/g, (_, key) => values[key] ?? "");
const number = (value, digits = 0) =>
  value === null || value === undefined
    ? "–"
    : value.toLocaleString(language, { minimumFractionDigits: digits, maximumFractionDigits: digits });
const percent = (part, whole) => (whole ? number((100 * part) / whole, 1) + (language === "en" ? " %" : "%") : "–");
const money = (value) =>
  value === null || value === undefined ? "–" : "$" + number(value, value && value < 1 ? 4 : 2);
const stageName = (stage) => words(stage === "instances" ? "instances_stage" : stage);
const ruleName = (rule) => told.words.rules[rule] ?? rule;

// Characters that show nothing, or turn the text around them, are shown by their number.
const HIDDEN =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff]/;
const codeOf = (letter) => "U+" + letter.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0");
const visible = (text) => String(text).replace(new RegExp(HIDDEN, "g"), (letter) => "⟨" + codeOf(letter) + "⟩");

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function modelText(tag, className, text) {
  const element = make(tag, className);
  element.dir = "auto";
  for (const part of text.split(new RegExp("(" + HIDDEN.source + ")")))
    element.append(HIDDEN.test(part) ? make("span", "mark", codeOf(part)) : part);
  return element;
}

function row(table, cells, className) {
  const line = table.insertRow();
  if (className) line.className = className;
  cells.forEach((cell, i) => {
    const element = make(i ? "td" : "th", i && typeof cell === "string" ? "number" : "");
    if (!i) element.scope = "row";
    element.append(cell);
    line.append(element);
  });
  return line;
}

function heading(table, names) {
  const line = table.createTHead().insertRow();
  names.forEach((name, i) => {
    const cell = make("th", i ? "number" : "", name);
    cell.scope = "col";
    line.append(cell);
  });
  table.createTBody();
  return table.tBodies[0];
}

// ---------------------------------------------------------------------------------------------------------------------
// The head of the page, and the tables.

function showHead() {
  const { settings, status, folder, seconds } = told.run;
  const { generate, filter } = told.counts;
  document.querySelectorAll("[data-word]").forEach((element) => (element.textContent = words(element.dataset.word)));
  byId("search").placeholder = words("search_hint");
  byId("made-by").textContent = words("made_by", { folder: visible(folder) });
  byId("run-line").textContent = words("run_line", {
    instructions: number(generate.out),
    model: visible(settings.model ?? "?"),
    provider: visible(settings.provider ?? "?"),
    status: told.words[status] ?? words("unknown_status"),
  });
  for (const [name, ...values] of told.notices)
    byId("notices").append(make("li", "", words(name, values.map(visible))));
  const tokens = Object.values(told.tokens).reduce((sum, stage) => sum + (stage.prompt ?? 0) + (stage.reply ?? 0), 0);
  const undone = Object.values(told.run.undone_because ?? {}).reduce((sum, n) => sum + n, 0);
  const figures = [
    ["kpi_instructions", number(generate.out)],
    ["kpi_instances", told.last === "filter" ? number(filter.out) : "–"],
    ["kpi_kept", percent(generate.out, generate.in)],
    ["kpi_undone", told.run.undone_because ? number(undone) : "–"],
    ["kpi_tokens", number(tokens)],
    ["kpi_cost", money(told.spending.cost)],
    ["kpi_seconds", number(seconds, seconds < 10 ? 1 : 0)],
  ];
  for (const [name, value] of figures) {
    const box = make("div");
    box.append(make("dt", "", words(name)), make("dd", "", value));
    box.dataset.figure = name;
    byId("key-figures").append(box);
  }
}

function share(part, whole, className) {
  const bar = make("span", className);
  bar.style.width = (whole ? Math.min(100, (100 * part) / whole) : 0) + "%";
  return bar;
}

function showFunnel() {
  const table = byId("funnel-table");
  const body = heading(table, [words("stage"), words("number"), words("share"), ""]);
  for (const stage of STAGES.slice(0, STAGES.indexOf(told.last) + 1)) {
    const count = told.counts[stage];
    const line = (name, n, kind) => {
      const part = kind !== "in" && (kind !== "undone" || stage !== "generate"); // there requests are undone
      const cells = [name, number(n), part ? percent(n, count.in) : "", part ? share(n, count.in, kind) : ""];
      const made = row(body, cells, kind === "in" ? "strong begin" : kind === "kept" ? "strong" : "");
      made.dataset.stage = stage;
      made.lastChild.className = "bar";
    };
    line(stageName(stage) + words("colon") + words(stage + "_unit"), count.in, "in");
    for (const [rule, n] of Object.entries(count.rejected)) {
      const button = make("button", "link", ruleName(rule));
      button.type = "button";
      button.dataset.rule = stage + ":" + rule;
      button.addEventListener("click", () => showRule(stage + ":" + rule));
      line(button, n, "rejected");
    }
    if (count.undone) line(words(stage === "generate" ? "undone_requests" : "undone_row"), count.undone, "undone");
    line(words("left"), count.out, "kept");
  }
}

// What became of the outputs that another model wrote again. Without one, the section stays hidden.
function showRewrite() {
  const { model, counts } = told.rewrite;
  if (!counts) return;
  byId("rewrite").hidden = false;
  const body = heading(byId("rewrite-table"), [words("rewrite_what"), words("number")]);
  for (const what of ["rewritten", "same", "undone"]) row(body, [words("rewrite_" + what), number(counts[what])]);
  for (const [rule, n] of Object.entries(counts.fell_back))
    row(body, [words("rewrite_fell_back") + words("colon") + ruleName(rule), number(n)]);
  byId("rewrite-note").textContent = words("rewrite_note", { model: visible(model), rows: number(counts.rows) });
}

// What a judge answered, and how it did on planted faults. Without one, the section stays hidden.
function showJudge() {
  const { model, data, status, counts, answers, probes } = told.judge;
  if (!answers) return;
  byId("judge").hidden = false;
  const body = heading(byId("judge-table"), [words("judge_question"), words("yes"), words("no"), words("unread")]);
  for (const [question, said] of Object.entries(answers))
    row(body, [words(question), number(said.yes), number(said.no), number(said.unread)]);
  const rejected = Object.values(counts.rejected).reduce((sum, n) => sum + n, 0);
  const what = { model: visible(model), data: visible(data), kept: number(counts.kept), rejected: number(rejected) };
  const found = { found: number(probes.planted_called_wrong), planted: number(probes.planted) };
  found.wrong = number(probes.rows_called_wrong);
  found.rows = number(probes.rows);
  const trusted = ["complete", "undone"].includes(status);
  const parts = [words(trusted ? "judge_note" : "judge_doubt", what), words("judge_probes", found)];
  byId("judge-note").textContent = parts.join(SPACE);
}

// Whether a model learnt from the rows, in the words of did_it_help.py. Without it, the section stays hidden.
function showHelped() {
  const { paragraphs, table } = told.helped;
  if (!table?.length) return;
  byId("helped").hidden = false;
  for (const text of paragraphs) byId("helped-said").append(modelText("p", "", text));
  const [names, ...lines] = table;
  const body = heading(byId("helped-table"), names.map(visible));
  for (const [name, ...cells] of lines) row(body, [modelText("span", "", name), ...cells.map(visible)]);
}

function showTopics() {
  if (!told.topics.length) {
    byId("topics").remove();
    return;
  }
  const names = ["topic", "topic_wanted", "topic_kept", "topic_rejected", "topic_new"];
  const body = heading(byId("topics-table"), names.map((name) => words(name)));
  for (const [name, wanted, kept, rejected, requests] of told.topics) {
    const perRequest = requests ? number(kept / requests, 1) : "–";
    row(body, [modelText("span", "", name), number(wanted), number(kept), number(rejected), perRequest]);
  }
}

function showTable1() {
  const { ours, paper } = told.table1;
  const body = heading(byId("table1-table"), [words("figure"), words("this_run"), words("paper")]);
  const parts = {
    classification: "instructions",
    not_classification: "instructions",
    unknown: "instructions",
    empty_inputs: "instances",
  };
  for (const name of [
    "instructions",
    "classification",
    "not_classification",
    "unknown",
    "instances",
    "empty_inputs",
    "instruction_length",
    "input_length",
    "output_length",
  ]) {
    if (name === "unknown" && !ours.unknown) continue;
    const cell = (figures) => {
      const value = figures[name],
        whole = figures[parts[name]];
      const text = number(value, name.endsWith("length") ? 1 : 0);
      return whole && value !== undefined && value !== null ? `${text} (${percent(value, whole)})` : text;
    };
    row(body, [words(name), cell(ours), cell(paper)]).dataset.figure = name;
  }
  byId("table1-note").textContent =
    words("table1_note") + SPACE + words(told.run.settings.language === "zh" ? "words_zh" : "words_en");
}

function showTokens() {
  const billed = told.spending.stages ?? {},
    spent = { ...told.tokens };
  const sum = (name) => Object.values(told.tokens).reduce((total, stage) => total + (stage[name] ?? 0), 0);
  const names = {
    replies: "replies",
    asked_now: "asked_now",
    cut: "cut",
    prompt: "prompt_tokens",
    reply: "reply_tokens",
  };
  const stages = STAGES.filter((stage) => stage in spent);
  const body = heading(byId("tokens-table"), ["", ...stages.map(stageName), words("total")]);
  for (const [name, word] of Object.entries(names))
    row(body, [
      words(word),
      ...stages.map((stage) => number(spent[stage][name] ?? 0)),
      number(sum(name)),
    ]).dataset.figure = name;
  row(
    body,
    [words("cost"), ...stages.map((stage) => money(billed[stage]?.cost)), money(told.spending.cost)],
    "strong",
  ).dataset.figure = "cost";
  const price = told.spending.price_per_million_tokens,
    each = told.spending.tokens_per_kept_instance,
    lost = billed.lost;
  byId("tokens-note").textContent = [
    words("tokens_note"),
    Array.isArray(price) ? words("price", { in: price[0], out: price[1] }) : words(price ? "no_price" : "no_spending"),
    lost?.prompt_tokens || lost?.reply_tokens
      ? words("lost", { in: number(lost.prompt_tokens), out: number(lost.reply_tokens), cost: money(lost.cost) })
      : "",
    each ? words("per_kept", { n: number(each, 1) }) : "",
  ]
    .filter(Boolean)
    .join(SPACE);
}

function showSettings() {
  const { settings, versions, faults, refused_parameters, undone_because } = told.run;
  const tables = { settings, versions, faults, refused_parameters, undone_because };
  for (const [name, values] of Object.entries(tables)) {
    if (!values || !Object.keys(values).length) continue;
    const part = make("div"),
      table = make("table");
    part.append(make("h3", "", words(name)), table);
    for (const [key, value] of Object.entries(values))
      row(table.createTBody(), [visible(key), modelText("span", "", String(value))]);
    byId("settings-tables").append(part);
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Packed pieces of this page: base64 of gzip.

async function unpackText(id) {
  const letters = atob(byId(id).textContent);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

const unpack = async (id) => JSON.parse(await unpackText(id));

// ---------------------------------------------------------------------------------------------------------------------
// Charts, by plotly. It reads a little markup in labels, so that model text loses its meaning as such before.

const label = (text, length = 40) => {
  const cut = [...visible(text).replace(/\s+/g, " ")];
  const short = cut.length > length ? cut.slice(0, length - 1).join("") + "…" : cut.join("");
  return short.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/\$/g, "&#36;");
};

function colour(name) {
  const probe = make("span");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

function layout(changes) {
  const axis = {
    gridcolor: colour("line"),
    linecolor: colour("line"),
    zerolinecolor: colour("line"),
    automargin: true,
    fixedrange: true,
  };
  const size = parseFloat(getComputedStyle(document.body).fontSize) * 0.85;
  const { xaxis = {}, yaxis = {}, ...rest } = changes;
  return {
    font: { color: colour("text"), size, family: getComputedStyle(document.body).fontFamily },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 10, r: 10, t: 10, b: 10 },
    showlegend: false,
    bargap: 0.08,
    hoverlabel: { font: { size, color: colour("text") }, bgcolor: colour("card"), bordercolor: colour("quiet") },
    separators: ".,",
    dragmode: false,
    xaxis: { ...axis, ...xaxis, title: { standoff: 8, ...xaxis.title } },
    yaxis: { ...axis, ...yaxis, title: { standoff: 8, ...yaxis.title } },
    ...rest,
  };
}

const drawn = {}; // id -> what draws it, so that another theme can draw it again

function chart(id, has, says, draw) {
  const element = byId(id);
  if (!has) {
    element.classList.add("none");
    element.removeAttribute("role");
    element.textContent = words("no_data");
    return;
  }
  element.setAttribute("aria-label", says);
  drawn[id] = () => {
    const [traces, changes] = draw();
    return Plotly.react(element, traces, layout(changes), {
      displayModeBar: false,
      responsive: true,
      displaylogo: false,
    });
  };
  drawn[id]();
}

function histogram(name, unit, axis, digits) {
  const data = told.histograms[name];
  const element = byId(name + "-chart");
  if (data)
    element.before(
      make(
        "p",
        "note",
        words(name === "seed" ? "mean_rouge" : "mean", { mean: number(data.mean, name === "seed" ? 2 : 1) }),
      ),
    );
  chart(name + "-chart", data, words("hist_" + name), () => {
    const from = (n) => number(n * data.width, digits);
    const rouge = name === "seed";
    const names = data.bars.map((_, n) =>
      data.open && n === data.bars.length - 1
        ? words("and_more", { from: from(n) })
        : data.width === 1
          ? from(n)
          : words("from_to", { from: from(n), to: digits ? from(n + 1) : number((n + 1) * data.width - 1) }),
    );
    const middle = data.bars.map((_, n) => (n + 0.5) * data.width);
    const every = rouge ? 4 : Math.max(1, Math.round(data.bars.length / 8));
    const last = data.open ? data.bars.length - 1 : Infinity; // the bar of all that is longer
    const ticks = [...data.bars.keys(), ...(rouge ? [20] : [])].filter(
      (n) => n === last || (n % every === 0 && last - n > every / 2),
    );
    const trace = {
      type: "bar",
      x: middle,
      y: data.bars,
      customdata: names,
      marker: { color: colour("accent") },
      hovertemplate: `%{customdata} ${rouge ? "" : words("x_words")}: %{y:,}<extra></extra>`,
      width: data.width * 0.92,
    };
    return [
      [trace],
      {
        xaxis: {
          title: { text: words(axis) },
          range: [0, (rouge ? 20.1 : data.bars.length) * data.width],
          tickvals: ticks.map((n) => n * data.width),
          ticktext: ticks.map((n) => number(n * data.width, rouge ? 1 : 0) + (n === last ? "+" : "")),
        },
        yaxis: {
          title: { text: words(unit) },
          tickformat: ",d",
          rangemode: "tozero",
          ...(Math.max(...data.bars) < 6 ? { dtick: 1 } : { nticks: 6 }),
        },
      },
    ];
  });
}

function funnelChart() {
  const { generate, classify, instances, filter } = told.counts;
  const steps = [generate.in, generate.out, classify.out, instances.out, filter.in, filter.out];
  const shown = { generate: 2, classify: 3, instances: 4, filter: 6 }[told.last];
  byId("funnel-chart").style.height = generate.in ? shown * 4.5 + 1 + "rem" : "";
  chart("funnel-chart", generate.in, words("funnel"), () => {
    const lines = told.words.funnel_steps.map((name) => name.replace(/(.{12,}?) /g, "$1<br>"));
    const trace = {
      type: "funnel",
      y: lines.slice(0, shown),
      x: steps.slice(0, shown),
      texttemplate: "%{value:,}",
      textfont: { color: colour("card") },
      insidetextfont: { color: colour("card") },
      outsidetextfont: { color: colour("text") },
      textposition: "auto",
      marker: { color: colour("kept") },
      connector: { fillcolor: colour("line"), line: { width: 0 } },
      hovertemplate: "%{y}: %{x:,}<extra></extra>",
    };
    return [[trace], { yaxis: { automargin: true } }];
  });
}

// Twelve hues that differ in both themes; a verb's objects have a paler one.
const hue = (n, pale) => {
  const dark =
    document.documentElement.style.colorScheme === "dark" ||
    (!document.documentElement.style.colorScheme && matchMedia("(prefers-color-scheme: dark)").matches);
  return `hsl(${(n * 137.5 + 210) % 360}, ${pale ? 38 : 48}%, ${dark ? (pale ? 28 : 36) : pale ? 84 : 74}%)`;
};

function verbsChart() {
  const { rows, read, all, shown } = told.verbs;
  const zh = told.run.settings.language === "zh";
  byId("verbs-note").textContent = rows.length
    ? words("verbs_note", { verbs: rows.length, objects: 4, shown: number(shown), all: number(all) })
    : "";
  byId("verbs-how").textContent = all
    ? words(zh ? "verbs_how_zh" : "verbs_how_en", { unread: number(all - read), all: number(all) })
    : "";
  chart("verbs-chart", rows.length, words("verbs"), () => {
    const trace = {
      type: "sunburst",
      ids: [],
      labels: [],
      parents: [],
      values: [],
      customdata: [],
      branchvalues: "total",
      maxdepth: 2,
      sort: true,
      marker: { colors: [], line: { color: colour("card"), width: 1 } },
      hovertemplate: "%{label}: %{customdata:,}<extra></extra>",
      insidetextorientation: "radial",
      textfont: { color: colour("text") },
      leaf: { opacity: 1 },
    };
    const add = (id, parent, text, value, fill, count = value) => {
      trace.ids.push(id);
      trace.customdata.push(count);
      trace.parents.push(parent);
      trace.labels.push(label(text, 24));
      trace.values.push(value);
      trace.marker.colors.push(fill);
    };
    rows.forEach(([verb, total, objects], n) => {
      add(
        "v" + n,
        "",
        verb,
        objects.reduce((sum, [, count]) => sum + count, 0),
        hue(n, false),
        total,
      );
      objects.forEach(([noun, count], m) => add(`v${n}o${m}`, "v" + n, noun, count, hue(n, true)));
    });
    return [[trace], { margin: { l: 0, r: 0, t: 0, b: 0 } }];
  });
}

function labelsChart() {
  const { rows, all, different } = told.labels;
  if (all)
    byId("labels-note").textContent = words("labels_note", {
      all: number(all),
      different: number(different),
      share: percent(rows[0][1], all),
    });
  byId("labels-chart").style.height = rows.length ? rows.length * 1.5 + 2 + "rem" : "";
  chart("labels-chart", all, words("labels"), () => [
    [
      {
        type: "bar",
        orientation: "h",
        y: rows.map((_, n) => n),
        x: rows.map(([, count]) => count),
        marker: { color: colour("accent") },
        customdata: rows.map(([text]) => label(text, 80)),
        hovertemplate: "%{customdata}: %{x:,}<extra></extra>",
        text: rows.map(([, count]) => `${number(count)} (${percent(count, all)})`),
        textposition: "auto",
        cliponaxis: false,
        insidetextfont: { color: colour("card") },
        outsidetextfont: { color: colour("text") },
      },
    ],
    {
      xaxis: { visible: false, range: [0, Math.max(...rows.map(([, count]) => count)) * 1.05] },
      yaxis: {
        autorange: "reversed",
        tickvals: rows.map((_, n) => n),
        ticktext: rows.map(([text]) => label(text, 18) + "  "),
        showgrid: false,
      },
    },
  ]);
}

function noveltyChart() {
  const data = told.novelty;
  if (data) {
    const values = {
      requests: number(data.requests),
      new: number(told.counts.generate.out),
      last: number(data.last_ten, 1),
    };
    const mean = data.width > 1 ? SPACE + words("novelty_mean", { width: data.width }) : "";
    byId("novelty-note").textContent = words("novelty_note", values) + mean;
  }
  chart("novelty-chart", data, words("novelty"), () => [
    [
      {
        type: "scatter",
        mode: "lines+markers",
        x: data.means.map((_, n) => n * data.width + 1),
        y: data.means,
        line: { color: colour("accent"), width: 2 },
        marker: { size: 5 },
        hovertemplate: `${words("x_request")} %{x}: %{y}<extra></extra>`,
      },
    ],
    {
      xaxis: { title: { text: words("x_request") }, tickformat: ",d", nticks: 8 },
      yaxis: { title: { text: words("y_new") }, rangemode: "tozero", nticks: 6 },
    },
  ]);
}

function tokensChart() {
  const stages = STAGES.filter((stage) => stage in told.tokens);
  const bars = (name, fill) => ({
    type: "bar",
    orientation: "h",
    name: words(name + "_tokens"),
    y: stages.map(stageName),
    x: stages.map((stage) => told.tokens[stage][name] ?? 0),
    marker: { color: colour(fill) },
    hovertemplate: "%{y}, %{fullData.name}: %{x:,}<extra></extra>",
  });
  chart("tokens-chart", stages.length, words("tokens"), () => [
    [bars("prompt", "accent"), bars("reply", "rejected")],
    {
      barmode: "stack",
      showlegend: true,
      legend: { orientation: "h", traceorder: "normal", y: 1.02, yanchor: "bottom", x: 0 },
      yaxis: { autorange: "reversed" },
      xaxis: { nticks: 5 },
    },
  ]);
}

// Plotly's script runs once it stands in the page: the policy knows its hash.
async function charts() {
  const script = make("script", "", await unpackText("plotly-0"));
  document.head.append(script);
  funnelChart();
  tokensChart();
  histogram("seed", "y_instructions", "x_rouge", 2);
  histogram("instruction", "y_instructions", "x_words", 0);
  histogram("input", "y_instances", "x_words", 0);
  histogram("output", "y_instances", "x_words", 0);
  verbsChart();
  labelsChart();
  noveltyChart();
}

// ---------------------------------------------------------------------------------------------------------------------
// The samples: rows lie packed in the page; they are read once, piece by piece, and only a page of them is shown.

const rows = []; // [status, stage, rule, instruction, input, output, is_classification, neighbour, score, cut, replies, id]
const searched = []; // what the search looks through, by row
const TEXTS = [3, 4, 5, 7]; // where a row has its instruction, input, output and evidence
const PROMPT = 8; // where a reply has its prompt; its text follows
let fitting = [],
  at = 0,
  done = false,
  reading; // a promise: all rows are read

async function readRows() {
  for (let n = 0; byId("rows-" + n); n++) {
    for (const line of await unpack("rows-" + n)) {
      rows.push(line);
      searched.push([line[3], line[4], line[5], line[7]].filter(Boolean).join("\n").toLowerCase());
    }
    byId("rows-" + n).remove();
    if (n === 0) find();
    else byId("found").textContent = words("loading", { n: number(rows.length), all: number(told.rows) });
    await new Promise((next) => setTimeout(next)); // let the page breathe
  }
}

// Where the page has no room for all rows or replies, it says so.
function showSamplesNote() {
  const parts = [];
  if (told.rows < told.all_rows) parts.push(words("rows_part", { n: number(told.rows), all: number(told.all_rows) }));
  if (told.replies < told.all_replies)
    parts.push(words("replies_part", { n: number(told.replies), all: number(told.all_replies) }));
  byId("samples-note").textContent = parts.join(SPACE);
}

// What turned rows away: [stage, rule, number] of the run's stages, and of a judge behind them.
function allRules() {
  const counts = { ...told.counts, judge: told.judge.counts ?? { rejected: {} } };
  return [...STAGES, "judge"].flatMap((stage) =>
    Object.entries(counts[stage].rejected).map(([rule, n]) => [stage, rule, n]),
  );
}

function fillFilters() {
  const option = (value, text) => new Option(text, value);
  const statuses = { all: "all", kept: "kept", rejected: "rejected", undone: "undone_status" };
  for (const [value, name] of Object.entries(statuses)) byId("status").append(option(value, words(name)));
  byId("rule").append(option("", words("any_rule")));
  for (const [stage, rule, n] of allRules())
    byId("rule").append(
      option(stage + ":" + rule, `${stageName(stage)}${words("colon")}${ruleName(rule)} (${number(n)})`),
    );
}

function showRule(value) {
  byId("search").value = "";
  byId("cut").checked = false;
  byId("status").value = "rejected";
  byId("rule").value = value;
  find();
  byId("samples").scrollIntoView();
  byId("samples").focus({ preventScroll: true });
}

function find(start = 0) {
  const asked = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const [status, rule, cut] = [byId("status").value, byId("rule").value, byId("cut").checked];
  fitting = [];
  rows.forEach((line, n) => {
    const fits =
      (status === "all" || line[0] === status) &&
      (!rule || (line[0] === "rejected" && `${line[1]}:${line[2]}` === rule)) &&
      (!cut || line[9]) &&
      asked.every((word) => searched[n].includes(word));
    if (fits) fitting.push(n);
  });
  at = Math.min(start, Math.max(0, Math.ceil(fitting.length / PAGE) - 1));
  showPage();
}

function showPage() {
  const pages = Math.max(1, Math.ceil(fitting.length / PAGE));
  const found = words("found", { n: number(fitting.length), all: number(told.rows) });
  byId("found").textContent = done
    ? fitting.length || !rows.length
      ? found
      : words("nothing")
    : words("loading", { n: number(rows.length), all: number(told.rows) });
  byId("page").textContent = words("page", { n: number(at + 1), all: number(pages) });
  byId("previous").disabled = at === 0;
  byId("next").disabled = at + 1 >= pages;
  byId("results").replaceChildren(...fitting.slice(at * PAGE, (at + 1) * PAGE).map((n) => sample(rows[n])));
}

function sample(line) {
  const [status, stage, rule, instruction, input, output, labelled, neighbour, score, cut, replies, id] = line;
  const item = make("li"),
    tags = make("div", "tags");
  const what =
    status === "rejected"
      ? words("rejected") + words("colon") + ruleName(rule)
      : words(status === "undone" ? "undone_status" : status);
  tags.append(make("span", "tag " + status, what), make("span", "quiet", stageName(stage)));
  if (labelled) tags.append(make("span", "tag plain", words("is_classification")));
  if (cut) tags.append(make("span", "tag plain", words("was_cut")));
  item.append(tags);
  const lost = score === null ? words("request") : words("request_n", { n: score });
  item.append(
    status === "undone" && stage === "generate"
      ? make("div", "instruction", lost)
      : modelText("div", "instruction text", instruction),
  );
  if (output !== null && rule !== "no_instance") item.append(pair(words("input"), input, words("no_input")));
  if (output !== null)
    item.append(pair(words(rule === "no_instance" ? "reply_label" : "output"), output, words("empty")));
  if (neighbour) {
    item.append(
      make("div", "quiet", status === "kept" ? words("first_output") : evidenceTitle(rule, score)),
      modelText("div", "text", neighbour),
    );
  }
  item.append(rawButton(replies));
  if (id) item.append(make("div", "quiet", words("explain", { command: explainCommand(id) })));
  return item;
}

// What the evidence of a rule is: the nearest text, the second answer, the example that was copied.
function evidenceTitle(rule, score) {
  if (rule === "answers_differ") return words("second_answer");
  if (rule.startsWith("judge_")) return words("judge_reason");
  return rule === "copied_example" ? words("copied") : words("nearest", { score: number(score, 2) });
}

// The command that shows a task through all stages; this page knows no paths.
function explainCommand(id) {
  const elsewhere = told.run.folder === "workshop" ? "" : " --work-dir FOLDER";
  return `python self_instruct.py --explain ${id}${elsewhere}`;
}

function pair(name, text, empty) {
  const line = make("div", "pair");
  line.append(make("span", "", name), text ? modelText("div", "text", text) : make("div", "quiet", empty));
  return line;
}

function rawButton(numbers) {
  if (!numbers.length) return make("div", "quiet", words("no_raw"));
  const raw = make("div", "raw"),
    button = make("button", "link", words("raw")),
    shown = make("div");
  button.type = "button";
  button.setAttribute("aria-expanded", "false");
  raw.append(button, shown);
  button.addEventListener("click", async () => {
    const open = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!open));
    if (open) return shown.replaceChildren();
    const parts = await Promise.all(numbers.map(reply));
    if (button.getAttribute("aria-expanded") === "false") return;
    const found = parts.filter(Boolean);
    const lacking = { n: number(parts.length - found.length), all: number(parts.length) };
    shown.replaceChildren(...found.flatMap(rawParts));
    if (found.length < parts.length) shown.append(make("p", "quiet", words("reply_elsewhere", lacking)));
    shown.querySelectorAll("pre").forEach((block) => (block.scrollTop = block.scrollHeight)); // a prompt's task is its end
  });
  return raw;
}

async function reply(n) {
  if (n >= told.replies) return null; // there was no room for it
  const size = told.replies_in_a_piece;
  const piece = await unpack("replies-" + Math.floor(n / size));
  await reading; // its texts may be those of rows
  return whole(piece)[n % size];
}

// Replies with their texts. In a piece, a text is a list of parts. A string stands for itself, a list for what its parts
// make; a number below 0 for a string or a list that came before, -1 for the first one that ended; another number for
// a text of a row: 4 * row + which of TEXTS.
function whole(piece) {
  const seen = [];
  const part = (one) => {
    if (typeof one === "number")
      return one < 0 ? seen[-1 - one] : rows[Math.floor(one / TEXTS.length)][TEXTS[one % TEXTS.length]];
    const text = typeof one === "string" ? one : one.map(part).join("");
    seen.push(text);
    return text;
  };
  const joined = (parts) => parts && parts.map(part).join("");
  return piece.map((reply) => [...reply.slice(0, PROMPT), ...reply.slice(PROMPT).map(joined)]);
}

function rawParts([stage, attempt, finish, created, promptTokens, replyTokens, limit, parameters, prompt, text]) {
  const facts = [stageName(stage)];
  if (attempt) facts.push(words("attempt"));
  if (finish) facts.push(words("finish", { why: visible(finish) }));
  if (promptTokens || replyTokens)
    facts.push(`${number(promptTokens)} + ${number(replyTokens)} ${words("tokens_unit")}`);
  if (created) facts.push(visible(created));
  if (parameters) facts.push(visible(JSON.stringify(parameters)));
  const two = make("div", "two");
  for (const [name, body] of [
    ["prompt", prompt],
    ["reply", text],
  ]) {
    const part = make("div"),
      block = modelText("pre", "", body || words(body === "" && name === "reply" ? "empty" : "not_kept"));
    block.tabIndex = 0;
    part.append(make("span", "quiet", words(name)), block);
    two.append(part);
  }
  return [make("h4", "", facts.join(" · ")), two];
}

// ---------------------------------------------------------------------------------------------------------------------

// Rows are read while plotly unpacks; if the charts fail, the rows are there all the same.
async function start() {
  if (typeof DecompressionStream === "undefined") {
    byId("notices").append(make("li", "", words("too_old")));
    return;
  }
  reading = readRows();
  try {
    await charts();
  } finally {
    await reading;
    done = true;
    find(at);
  }
}

function watch() {
  let waiting;
  byId("search").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(find, 150);
  });
  for (const id of ["status", "rule", "cut"]) byId(id).addEventListener("change", () => find());
  const turn = (pages) => {
    at += pages;
    showPage();
    byId("samples").scrollIntoView();
  };
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  const dark = matchMedia("(prefers-color-scheme: dark)"),
    root = document.documentElement;
  const redraw = () => Object.values(drawn).forEach((draw) => draw());
  byId("theme").addEventListener("click", () => {
    const now = root.style.colorScheme || (dark.matches ? "dark" : "light");
    root.style.colorScheme = now === "dark" ? "light" : "dark";
    redraw();
  });
  dark.addEventListener("change", redraw);
  document.addEventListener("DOMContentLoaded", start);
}

showHead();
showFunnel();
showTopics();
showTable1();
showRewrite();
showJudge();
showHelped();
showTokens();
showSettings();
fillFilters();
showSamplesNote();
watch();
