// The page that asks who looks. A link's token stands behind #, which no browser sends: it is posted from here.
"use strict";
const byLink = document.getElementById("by-link");
if (byLink && location.hash.length > 20) {
  byLink.elements.token.value = location.hash.slice(1);
  history.replaceState(null, "", location.pathname);
  byLink.submit();
}
