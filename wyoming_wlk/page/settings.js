// What the user chose, kept in this browser. The token is kept only as long as the tab.

const KEY = "wyoming-wlk";
const WISHES = ["language", "task", "target_language", "diarization", "hotwords", "prompt"]; // by the server's names
const DEFAULTS = {
  ...Object.fromEntries(WISHES.map((name) => [name, ""])), name: "", device: "", theme: "system", format: "txt",
};

export class Settings {
  #values;

  constructor() {
    try {
      this.#values = { ...DEFAULTS, ...JSON.parse(localStorage.getItem(KEY)) };
    } catch {
      this.#values = { ...DEFAULTS }; // storage may be forbidden, or hold what an older page wrote
    }
  }

  get(name) {
    return this.#values[name];
  }

  set(name, value) {
    this.#values[name] = value;
    try {
      localStorage.setItem(KEY, JSON.stringify(this.#values));
    } catch {
      // it is then kept until the page is closed
    }
  }

  /** What the server is asked for, as parameters of the connection. */
  query() {
    const query = {};
    for (const name of WISHES) {
      if (this.#values[name].trim()) query[name] = this.#values[name].trim();
    }
    return query;
  }
}

/** Binds the page's named fields to settings of the same names; `changed(name)` is called after a change. */
export function bindFields(settings, changed) {
  for (const field of document.querySelectorAll("input[name], select[name]")) {
    const value = settings.get(field.name);
    if (field.type === "radio") field.checked = field.value === value;
    else field.value = value;
    field.addEventListener("change", () => {
      settings.set(field.name, field.value);
      changed(field.name);
    });
  }
}

/** Shows the theme: light, dark, or whatever the system has. */
export class Theme {
  #system = matchMedia("(prefers-color-scheme: dark)");
  #chosen;

  constructor(chosen) {
    this.#system.addEventListener("change", () => this.show(this.#chosen));
    this.show(chosen);
  }

  show(chosen) {
    this.#chosen = chosen;
    const dark = chosen === "dark" || (chosen !== "light" && this.#system.matches);
    document.documentElement.dataset.theme = dark ? "dark" : "light";
  }
}
