// What the walks through the interface share: Debian's chromium, screenshots, and how to find things on a page.
import { createRequire } from "node:module";
import { join } from "node:path";

const { chromium } = createRequire(join(process.env.TAPELOOP_UI_TOOLS, "package.json"))("playwright-core");

export const PAGES = ["Ring buffer", "Cluster configuration", "Snapshot length filter", "Interfaces", "Extractions", "Events", "Users", "Settings"];

// A page of a new browser, and what is done on it. `seen.errors` gets any error of a script, or of the content security policy.
export async function begin(directory, seen) {
  seen.errors = [];
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox", "--disable-gpu"] });
  const context = await browser.newContext({ ignoreHTTPSErrors: true, acceptDownloads: true, viewport: { width: 1280, height: 900 },
    colorScheme: "light", timezoneId: "Asia/Tokyo" });
  const page = await context.newPage();
  page.setDefaultTimeout(60000);
  page.on("pageerror", (error) => seen.errors.push(String(error)));
  page.on("console", (message) => {
    if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) seen.errors.push(message.text());
  });
  const shot = (name) => page.screenshot({ path: join(directory, `${name}.png`), fullPage: true });
  const dialog = () => page.getByRole("dialog");
  const button = (name, within = page) => within.getByRole("button", { name, exact: true });
  const log_in = async (user, given, own) => {
    await page.getByLabel("User").fill(user);
    await page.getByLabel("Password").fill(given);
    await button("Log in").click();
    if (!own) return;
    await page.getByLabel("Password that you were given").fill(given);
    await page.getByLabel("New password", { exact: true }).fill(own);
    await page.getByLabel("New password again").fill(own);
    if (user === "admin") await shot("new-password");
    await button("Set password").click();
  };
  return {
    browser, page, shot, dialog, button, log_in,
    open: (name) => page.getByRole("navigation", { name: "pages" }).getByRole("link", { name }).click(),
    done: () => dialog().waitFor({ state: "detached" }),
    banner: (text) => page.getByRole("status").filter({ hasText: text }).first().waitFor(),
    row: (name) => page.getByRole("row", { name }),
    // How far the page sticks out of a window of that width, or a table out of its place.
    overflow: () => page.evaluate(() => Math.max(...[document.documentElement, ...document.querySelectorAll(".scroll")].map((one) => one.scrollWidth - one.clientWidth))),
  };
}
