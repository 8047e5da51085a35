// The page: sign in with a key, see the connections, make one.
import type { Connection, Provider } from "./api.js";
import { type Outcome, Refused, Signalbox } from "./client.js";

const signIn = element("sign-in", HTMLFormElement);
const console_ = element("console", HTMLElement);
const providers = element("providers", HTMLElement);
const rows = element("connections", HTMLTableSectionElement);
const empty = element("empty", HTMLElement);
const said = element("said", HTMLElement);
const cancel = element("cancel", HTMLButtonElement);

signIn.addEventListener("submit", (event) => {
  event.preventDefault();
  const given = new FormData(signIn);
  const text = (name: string): string => String(given.get(name) ?? "").trim();
  // The key is in this page's memory and nowhere else: a reload forgets it.
  const gateway = new Signalbox({ gateway: text("gateway"), apiKey: text("key"), org: text("org") });
  void attempt(async () => {
    await Promise.all([showProviders(gateway), showConnections(gateway)]);
    signIn.hidden = true;
    console_.hidden = false;
  });
});

async function showProviders(gateway: Signalbox): Promise<void> {
  providers.replaceChildren(...(await gateway.providers()).map((provider) => connectButton(gateway, provider)));
}

function connectButton(gateway: Signalbox, provider: Provider): HTMLButtonElement {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = `Connect ${provider.name}`;
  button.addEventListener("click", () => {
    const giveUp = new AbortController();
    cancel.hidden = false;
    cancel.onclick = () => giveUp.abort(new Error("You gave up; nothing was connected by this page."));
    // Nothing may be awaited between the click and `connect`.
    const outcome = gateway.connect(provider.slug, giveUp.signal);
    say(`Finish in the window of ${provider.name}.`);
    void attempt(async () => {
      say(wordsFor(await outcome, provider.name));
      await showConnections(gateway);
    }).finally(() => {
      cancel.hidden = true;
    });
  });
  return button;
}

function wordsFor(outcome: Outcome, provider: string): string {
  switch (outcome.kind) {
    case "connected":
      return outcome.reactivated ? `${provider} is connected again.` : `${provider} is connected.`;
    case "waiting":
      return `An owner of the account has to approve this at ${provider}. Connect again once they have.`;
    case "failed":
      return outcome.error === "access_denied"
        ? `You said no at ${provider}: nothing was connected.`
        : `${provider} was not connected: ${outcome.error}.`;
    case "expired":
      return "That took too long. Connect again.";
  }
}

async function showConnections(gateway: Signalbox): Promise<void> {
  const shown: HTMLTableRowElement[] = [];
  for await (const connection of gateway.connections()) shown.push(row(connection));
  rows.replaceChildren(...shown);
  empty.hidden = shown.length > 0;
}

function row(connection: Connection): HTMLTableRowElement {
  const made = document.createElement("tr");
  const lastEvent = connection.lastEventAt === null ? "none yet" : new Date(connection.lastEventAt).toLocaleString();
  const resources = connection.resources.map((resource) => resource.resourceName ?? resource.providerResourceId);
  for (const text of [
    connection.provider,
    connection.accountLogin ?? connection.externalId,
    connection.status,
    resources.join(", ") || "none linked",
    lastEvent,
  ]) {
    made.insertCell().textContent = text;
  }
  return made;
}

async function attempt(act: () => Promise<void>): Promise<void> {
  try {
    await act();
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error);
    const more = error instanceof Refused ? ` (${error.code}${error.requestId ? `, request ${error.requestId}` : ""})` : "";
    say(text + more);
  }
}

function say(text: string): void {
  said.textContent = text;
}

function element<T extends HTMLElement>(id: string, kind: new () => T): T {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`the page has no #${id}`);
  return found;
}
